"""How long training stands still for a checkpoint: 4 ranks, each a process with a state of 512 MB.

The ranks go in step, as in training: all of them copy, or save, at the same time, and what counts is the slowest, since
the others wait for it. The store is a folder. "Copy" is one plain copy of the same bytes by NumPy into memory that was
used before; "deferred" is save_async(defer_copy=True), and wait_staged() after the 100 ms that a step of training
takes; "the first" is the save of a process whose memory was never touched.
"""

from __future__ import annotations

import multiprocessing
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .child import budget_mib, from_now, memory
from .row import BUDGET, CPU_S, HELD, PEAK, Aim, Arm, ArmDied, Column, Given, Measure, Row, Run, Work

RANKS, TENSORS = 4, 32
STEP_S = 0.1
GROUP = f"{RANKS} ranks"
LONGEST_S = 600.0


def _by_rank(given: Given) -> Work:
    raise NotImplementedError("the ranks of this row live on from arm to arm")


ARMS: Mapping[str, Arm] = {
    name: Arm(_by_rank, "torch", "torch") for name in ("copy", "save_async", "deferred", "torch.save", "save")
}


class _Rank:
    """A rank's state, and what it can do with it."""

    def __init__(self, rank: int, folder: str, mb: int) -> None:
        import numpy as np
        import torch

        torch.set_num_threads(1)
        self._rank, self._folder = rank, folder
        each = mb * 2**20 // TENSORS // 4
        self._state = {f"layer-{number}": torch.full((each,), float(rank + number)) for number in range(TENSORS)}
        self._sources = [tensor.numpy() for tensor in self._state.values()]
        self._targets = [np.empty_like(source) for source in self._sources]
        for target in self._targets:
            target[:] = 0
        self.works: dict[str, Callable[[int], Run]] = {
            "copy": self._copy, "save_async": self._save_async, "deferred": self._deferred,
            "torch.save": self._torch_save, "save": self._save,
        }  # fmt: skip

    def _asked(self, step: int) -> dict[str, Any]:
        return {"step": step, "rank": self._rank, "ranks": RANKS, "token": str(step)}

    def _copy(self, step: int) -> Run:
        import numpy as np

        pairs = list(zip(self._targets, self._sources, strict=True))
        return {"stall": _timed(lambda: [np.copyto(to, source) for to, source in pairs])}

    def _save_async(self, step: int) -> Run:
        from holdshort.storage import checkpoints

        saving: list[checkpoints.Saving] = []
        stall = _timed(lambda: saving.append(checkpoints.save_async(self._state, self._url, **self._asked(step))))
        return {"stall": stall, "total": saving[0].result(LONGEST_S).took_s}

    def _deferred(self, step: int) -> Run:
        from holdshort.storage import checkpoints

        saving: list[checkpoints.Saving] = []

        def call() -> None:
            saving.append(checkpoints.save_async(self._state, self._url, defer_copy=True, **self._asked(step)))

        stall = _timed(call)
        time.sleep(STEP_S)
        stall += _timed(saving[0].wait_staged)
        return {"stall": stall, "total": saving[0].result(LONGEST_S).took_s}

    def _torch_save(self, step: int) -> Run:
        import torch

        path = Path(self._folder) / f"rank-{self._rank}.pt"
        took = _timed(lambda: torch.save(self._state, path))
        path.unlink()
        return {"stall": took, "total": took}

    def _save(self, step: int) -> Run:
        from holdshort.storage import checkpoints

        took = _timed(lambda: checkpoints.save(self._state, self._url, **self._asked(step)))
        return {"stall": took, "total": took}

    @property
    def _url(self) -> str:
        return f"{self._folder}/run"


def _rank_main(rank: int, folder: str, mb: int, orders: Connection) -> None:
    """Do what is ordered until there are no more orders."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who orders ends us
    works = _Rank(rank, folder, mb).works
    budget, before_mib = budget_mib("checkpoint"), from_now()
    orders.send("ready")
    with suppress(EOFError):
        while True:
            arm, step = orders.recv()
            from_now()
            usage = _cpu_s()
            run = works[arm](step)
            run.update(memory(before_mib, 0), cpu_s=_cpu_s() - usage)
            if arm not in ("copy", "torch.save"):
                run["budget_mib"] = budget
            orders.send(run)


def _timed(act: Callable[[], Any]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _groups(quick: bool) -> Mapping[str, Sequence[str]]:
    return {GROUP: tuple(ARMS)}


@contextmanager
def _opened(quick: bool, repeats: int) -> Iterator[Measure]:
    context = multiprocessing.get_context("spawn")
    mb = 64 if quick else 512
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe() for _ in range(RANKS)]
        ranks = [
            context.Process(target=_rank_main, args=(rank, folder, mb, theirs), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        ours, step, firsts = [pipe for pipe, _ in pipes], 0, set[str]()

        def measure(group: str, arm: str) -> Run:
            if arm not in firsts and arm in ("copy", "save_async"):
                firsts.add(arm)
                first = once(arm)["stall"]
                return {**once(arm), "first_stall": first}
            return once(arm)

        def once(arm: str) -> Run:
            nonlocal step
            step += 1
            for pipe in ours:
                pipe.send((arm, step))
            each = [_told(pipe, arm) for pipe in ours]
            if arm in ("save", "save_async", "deferred"):
                from holdshort.storage import checkpoints

                checkpoints.discard(f"{folder}/run", step)
            told: Run = {name: max(run[name] for run in each) for name in each[0]}
            return {**told, "cpu_s": sum(run["cpu_s"] for run in each)}

        try:
            for rank in ranks:
                rank.start()
            for pipe in ours:
                _told(pipe, "the state of a rank")
            yield measure
        finally:
            for rank in ranks:
                if rank.pid is not None:
                    rank.kill()
                    rank.join()


def _told(pipe: Connection, what: str) -> Any:
    try:
        if pipe.poll(LONGEST_S):
            return pipe.recv()
    except EOFError:
        raise ArmDied(f"{what}: a rank ended") from None
    raise ArmDied(f"{what}: a rank took more than {LONGEST_S:.0f} s")


ROW = Row(
    name="save",
    title=f"Training stands still for a checkpoint: {RANKS} ranks × 512 MB (quick: 64), the slowest rank",
    arms=ARMS,
    groups=_groups,
    opened=_opened,
    columns=(
        Column("stall", "stands still s", 3, has_spread=True), Column("first_stall", "the first s", 3),
        Column("total", "until committed s", 2), CPU_S, PEAK, HELD, BUDGET,
    ),
    aims=(
        Aim("save_async: stands still ÷ one plain copy", GROUP, "save_async", "stall", than="copy", at_most=1.0),
        Aim("deferred: stands still ÷ one plain copy", GROUP, "deferred", "stall", than="copy", at_most=1.0),
    ),
    chart=("stall", "s"),
    repeats=(15, 3),
)  # fmt: skip
