"""How long training stands still for a checkpoint: 4 ranks, each a process with a state of 512 MB.

    python benchmarks/checkpoint_saving.py [--quick] [--mb 512] [--rounds 7]

The ranks go in step, as in training: all of them copy, or save, at the same time. In each round the arms take turns in
an order of their own:

- copy: one plain copy of the same bytes into memory that was used before, by NumPy. The aim.
- save_async: the time of the call, which is what training waits for. Its uploads end before the next arm begins.
- deferred: the same with defer_copy=True: the call, and wait_staged() after the 100 ms that a step of training takes.
- torch.save: to a file in the same folder, as it is commonly done. It returns when the page cache has it all.
- save: the blocking call, until the step is committed.

What counts of an arm in a round is the slowest rank, since the others wait for it. The store is a folder; how long the
uploads take is shown too. With --quick 64 MB and 3 rounds, in half a minute.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import reporting
from holdshort.storage import checkpoints

RANKS, TENSORS, SEED = 4, 32, 20261124
STEP_S = 0.1
ARMS = ("copy", "save_async", "deferred", "torch.save", "save")


def rank_main(rank: int, folder: str, mb: int, orders: list[list[str]], barrier: threading.Barrier, told: Any) -> None:
    """One rank: all arms in each round, in the given orders."""
    torch.set_num_threads(1)
    each = mb * 2**20 // TENSORS // 4
    state = {f"layer-{number}": torch.full((each,), float(rank + number)) for number in range(TENSORS)}
    sources = [tensor.numpy() for tensor in state.values()]
    targets = [np.empty_like(source) for source in sources]
    for target in targets:
        target[:] = 0
    url, step = f"{folder}/run", 0

    def asked() -> dict[str, Any]:
        return {"rank": rank, "ranks": RANKS, "token": str(step)}

    def copy() -> dict[str, float]:
        return {"stall": _timed(lambda: [np.copyto(to, source) for to, source in zip(targets, sources, strict=True)])}

    def save_async() -> dict[str, float]:
        saving: list[checkpoints.Saving] = []
        stall = _timed(lambda: saving.append(checkpoints.save_async(state, url, step, **asked())))
        return {"stall": stall, "total": saving[0].result(600).took_s}

    def deferred() -> dict[str, float]:
        saving: list[checkpoints.Saving] = []
        stall = _timed(lambda: saving.append(checkpoints.save_async(state, url, step, defer_copy=True, **asked())))
        time.sleep(STEP_S)
        stall += _timed(saving[0].wait_staged)
        return {"stall": stall, "total": saving[0].result(600).took_s}

    def torch_save() -> dict[str, float]:
        path = Path(folder) / f"rank-{rank}.pt"
        took = _timed(lambda: torch.save(state, path))
        path.unlink()
        return {"stall": took, "total": took}

    def save() -> dict[str, float]:
        took = _timed(lambda: checkpoints.save(state, url, step, **asked()))
        return {"stall": took, "total": took}

    work: dict[str, Callable[[], dict[str, float]]] = {
        "copy": copy, "save_async": save_async, "deferred": deferred, "torch.save": torch_save, "save": save
    }  # fmt: skip
    for number, order in enumerate([["save_async", "copy"], *orders]):
        for arm in order:
            step += 1
            barrier.wait()
            found = work[arm]()
            barrier.wait()
            if rank == 0 and arm.startswith(("save", "deferred")):
                checkpoints.discard(url, step)
            told.put((number - 1, arm, rank, found))


def _timed(act: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


def measure(mb: int, rounds: int, folder: str) -> list[tuple[int, str, int, dict[str, float]]]:
    """Every figure of every rank; round -1 is the first save of a process, into fresh memory."""
    context = multiprocessing.get_context("spawn")
    drawn = random.Random(SEED)
    orders = [drawn.sample(ARMS, len(ARMS)) for _ in range(rounds)]
    barrier, told = context.Barrier(RANKS), context.Queue()
    ranks = [
        context.Process(target=rank_main, args=(rank, folder, mb, orders, barrier, told), daemon=True)
        for rank in range(RANKS)
    ]
    for rank in ranks:
        rank.start()
    found = [told.get(timeout=600) for _ in range(RANKS * (rounds * len(ARMS) + 2))]
    for rank in ranks:
        rank.join()
    return found


def main() -> None:
    """Measure, and show it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true")
    options.add_argument("--mb", type=int, default=0, help="of each rank's state")
    options.add_argument("--rounds", type=int, default=0)
    options.add_argument("--folder", help="where the store is; by default a temporary folder")
    given = options.parse_args()
    mb = given.mb or (64 if given.quick else 512)
    rounds = given.rounds or (3 if given.quick else 7)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        figures = measure(mb, rounds, folder)
    slowest: dict[tuple[str, str], list[float]] = {}
    for number in range(-1, rounds):
        for arm in ARMS:
            of_ranks = [found for at, name, _, found in figures if (at, name) == (number, arm)]
            for what in ("stall", "total") if of_ranks else ():
                values = [found[what] for found in of_ranks if what in found]
                if values:
                    key = f"first {arm}" if number < 0 else arm
                    slowest.setdefault((key, what), []).append(max(values))
    stalls = {arm: reporting.spread(slowest[arm, "stall"]) for arm in (*ARMS, "first copy", "first save_async")}
    totals = {arm: reporting.spread(slowest[arm, "total"]) for arm in ARMS if (arm, "total") in slowest}
    # In pairs of one round, so that what else the machine did in it counts for both.
    shares = [
        mine / plain for mine, plain in zip(slowest["save_async", "stall"], slowest["copy", "stall"], strict=True)
    ]
    ratio = reporting.spread(shares)
    rows = [
        [arm, f"{each['median'] * 1000:,.0f}", f"{each['min'] * 1000:,.0f} … {each['max'] * 1000:,.0f}",
         f"{each['median'] / stalls['copy']['median']:.2f}",
         f"{totals[arm]['median']:.2f}" if arm in totals else "", int(each["runs"])]
        for arm, each in stalls.items()
    ]  # fmt: skip
    reporting.table(
        f"Training stands still: {RANKS} ranks × {mb} MB, slowest rank, ms",
        ["arm", "median", "min … max", "÷ copy", "until committed, s", "rounds"], rows,
    )  # fmt: skip
    sys.stdout.write(
        f"\nsave_async ÷ copy, round by round: median {ratio['median']:.2f}, {ratio['min']:.2f} to {ratio['max']:.2f}\n"
    )
    found = {"ranks": RANKS, "mb": mb, "stall_s": stalls, "until_committed_s": totals, "save_async_by_copy": ratio,
             "torch": torch.__version__}  # fmt: skip
    reporting.write("checkpoint_saving", found)
    reporting.bars(
        "checkpoint_saving", f"Training stands still for a checkpoint: {RANKS} ranks × {mb} MB",
        {"stall": {arm: stalls[arm]["median"] for arm in ARMS}}, unit="seconds", log=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
