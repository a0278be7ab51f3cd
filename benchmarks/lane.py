"""A chatbot and an indexing job on one machine: what the chat feels, and what the job gets.

    python benchmarks/lane.py [--quick]

Real models on the CPU. The same seeded, open-loop chat traffic in every arm, and latencies are timed from the schedule:

    alone        the chat alone, straight to its server
    gateway      the chat alone, through the gateway: what that costs by itself
    unprotected  beside the indexing job, straight to the server, so nothing raises the lane
    capped       likewise, but the job has one thread and `nice 19`: the fixed low cap
    holdshort    beside the job, through the gateway, which raises the lane

for bursts that are to keep the chatbot busy 30, 60 and 90 % of the time; how busy it was is measured. Each repeat runs
all arms, in an order of its own. A figure is the median over the repeats, so one disturbed run does not decide it;
ratios are taken within a repeat; brackets hold 95 % bootstrap intervals. Harvest = documents indexed ÷ (documents per
second of the job alone × the time that the chat of the arm `alone` leaves idle). It takes about 22 minutes, with
--quick 3, and wants the machine for itself.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import nan
from pathlib import Path
from statistics import median
from typing import Any

import reporting
from bench_worker import documents
from holdshort.cli.demo.figures import busy_s, documents_between, quantile
from holdshort.cli.demo.report import versions
from holdshort.cli.demo.stage import POOL, Stage
from holdshort.cli.demo.traffic import Answered, Ask, bursts, drive
from holdshort.jobs import BatchInferenceJob, Client, Settings

SEED = 20261124
THREADS = 2
TOKENS = 32
BURST = 4
LOADS = (0.3, 0.6, 0.9)
ARMS = ("alone", "gateway", "unprotected", "capped", "holdshort")
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
RESAMPLES = 1000
AIMS = {"first_p95_ratio": 1.25, "token_p95_ratio": 1.10}
HARVEST_AIM = 0.90


@dataclass
class Run:
    """One arm, once."""

    answers: list[Answered]
    seconds: float
    busy_share: float
    documents_per_s: float

    def first_ms(self, share: float) -> float:
        """Quantile of the time to first token."""
        return 1000 * (quantile([a.first_s for a in self.answers if a.first_s is not None], share) or nan)

    def token_ms(self, share: float) -> float:
        """Quantile of the time per token."""
        return 1000 * (quantile([gap for a in self.answers for gap in a.gaps_s], share) or nan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one load, shorter runs, two repeats")
    quick: bool = parser.parse_args().quick
    seconds, repeats, loads = (8.0, 2, (0.6,)) if quick else (12.0, 5, LOADS)
    load_before = os.getloadavg()[0]
    sys.stderr.write(f"load average before: {load_before:.2f} on {len(os.sched_getaffinity(0))} cores\n")
    if load_before > 0.25 * len(os.sched_getaffinity(0)):
        sys.stderr.write(
            "The machine is busy: all arms, `alone` too, will be worse and less even than they could be.\n"
        )
    found: dict[float, dict[str, list[Run]]] = {load: {arm: [] for arm in ARMS} for load in loads}
    alone_per_s: list[float] = []
    capped_per_s: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="holdshort-bench-") as folder,
        Stage(Path(folder), threads=THREADS) as stage,
    ):
        model = stage.model()
        gateway = stage.gateway(model)
        answer_s = calibrate(model)
        calibrate(gateway)  # it has opened its connections now, and is warm as well
        order = random.Random(SEED)
        for repeat in range(repeats):
            with job(stage):
                alone_per_s.append(rate(stage, 4.0))
            with job(stage, capped=True):
                capped_per_s.append(rate(stage, 4.0))
            for load in loads:
                asks = schedule(load, answer_s, seconds, SEED + repeat)
                for arm in order.sample(ARMS, len(ARMS)):
                    url = gateway if arm in ("gateway", "holdshort") else model
                    found[load][arm].append(one(stage, arm, url, asks, seconds))
                    progress(repeat, repeats, load, arm, found[load][arm][-1])
    told: dict[str, Any] = {
        "quick": quick, "load_average_before": load_before, "versions": versions(),
        "seed": SEED, "threads_of_chat": THREADS, "tokens": TOKENS, "burst": BURST,
        "seconds_per_run": seconds, "repeats": repeats, "answer_alone_s": answer_s,
        "job_alone_documents_per_s": reporting.spread(alone_per_s),
        "capped_job_alone_documents_per_s": reporting.spread(capped_per_s),
        "loads": {f"{load:.0%}": summary(found[load], median(alone_per_s)) for load in loads},
    }  # fmt: skip
    show(told)
    reporting.write("lane", told)
    picture(told, "60%" if "60%" in told["loads"] else next(iter(told["loads"])))


def picture(told: dict[str, Any], load: str) -> None:
    """One load as bars."""
    arms = told["loads"][load]
    reporting.bars(
        "lane",
        f"A chatbot and an indexing job; the chat alone is busy {arms['alone']['busy_share'][0]:.0%} of the time",
        {
            "first token p95 (ms)": {arm: arms[arm]["first_ms"]["p95"][0] for arm in ARMS},
            "per token p95 (ms)": {arm: arms[arm]["token_ms"]["p95"][0] for arm in ARMS},
            "documents/s": {arm: arms[arm]["documents_per_s"][0] for arm in ARMS},
        },
        unit="", log=True,
    )  # fmt: skip


# -- running ---------------------------------------------------------------------------------------------


def calibrate(model: str) -> float:
    """Seconds of an undisturbed answer: the fastest of a few, since whatever disturbs one only makes it slower."""
    asks = bursts(1, seconds=20.0, answer_s=1.0, burst=1, idle_s=0.1, tokens=TOKENS)[:8]
    answered = drive(model, asks).result()
    return min(answer.tokens[-1] - answer.scheduled for answer in answered[2:])


def schedule(load: float, answer_s: float, seconds: float, seed: int) -> list[Ask]:
    """Bursts that keep the chatbot busy for about this share of the time."""
    # Within a burst a request comes on average 1.25 answers after the one before, but for the last one's tail.
    burst_s = ((BURST - 1) * 1.25 + 1) * answer_s
    idle_s = max(0.05, BURST * answer_s / load - burst_s)
    return bursts(seed, seconds=seconds, answer_s=answer_s, burst=BURST, idle_s=idle_s, tokens=TOKENS)


def one(stage: Stage, arm: str, url: str, asks: list[Ask], seconds: float) -> Run:
    """Drive the chat once, beside the job if the arm has one."""
    if arm in ("alone", "gateway"):
        return drive_once(stage, url, asks, seconds)
    with job(stage, capped=arm == "capped"):
        return drive_once(stage, url, asks, seconds)


def drive_once(stage: Stage, url: str, asks: list[Ask], seconds: float) -> Run:
    driving = drive(url, asks)
    start = driving.started
    time.sleep(max(0.0, start + seconds - time.monotonic()))
    time.sleep(0.25)  # until the trace is written
    done = documents_between(stage.trace(), start, start + seconds)
    stop_workers(stage)  # so that what an unprotected chat has left over does not take minutes
    answers = driving.result()
    return Run(answers, seconds, busy_s(answers, start, start + seconds) / seconds, done / seconds)


_workers: list[subprocess.Popen[bytes]] = []


@contextmanager
def job(stage: Stage, *, capped: bool = False) -> Iterator[None]:
    """The indexing job at work: a worker of its own, warm, with more documents than it can do."""
    environment = dict(stage.environment)
    before = dict(os.environ)
    os.environ.update({name: value for name, value in environment.items() if name.startswith("HOLDSHORT_")})
    try:
        with Client(settings=Settings.load()) as client:
            submitted = client.submit(
                BatchInferenceJob(
                    pool=POOL, input=documents(), priority="bulk", shard_rows=24, params={"encoding_format": "base64"}
                )
            )
            command = [sys.executable, "-m", "holdshort.cli", "worker", POOL]
            if capped:
                os.environ["HOLDSHORT_POOLS"] = f'{{"{POOL}": {{"engine": "minilm", "options": {{"threads": 1}}}}}}'
                command = ["nice", "-n", "19", *command]
            stage.environment |= {"HOLDSHORT_POOLS": os.environ["HOLDSHORT_POOLS"]} if capped else {}
            begin = time.monotonic()
            worker = stage.start("worker", command)
            _workers.append(worker)
            stage.environment.pop("HOLDSHORT_POOLS", None)
            try:
                while sum(e["event"] == "ran" and e["at"] >= begin for e in stage.trace()) < 40:
                    stage.check(worker, "worker")
                    time.sleep(0.1)
                yield
            finally:
                stop_workers(stage)
                submitted.cancel("the run is over")
    finally:
        os.environ.clear()
        os.environ.update(before)


def stop_workers(stage: Stage) -> None:
    """End the workers that run, at once: what they leave is not wanted."""
    while _workers:
        worker = _workers.pop()
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    for path in (stage.folder / "trace").glob("*.jsonl"):
        path.rename(path.with_suffix(".old"))


def rate(stage: Stage, seconds: float) -> float:
    """Documents per second of the job that runs."""
    start = time.monotonic()
    time.sleep(seconds)
    end = time.monotonic()
    time.sleep(0.25)
    return documents_between(stage.trace(), start, end) / (end - start)


# -- figures ---------------------------------------------------------------------------------------------


def summary(arms: dict[str, list[Run]], alone_per_s: float) -> dict[str, Any]:
    """All arms at a load, as figures with intervals, and beside the chat alone."""
    return {name: figures(runs, arms["alone"], alone_per_s) for name, runs in arms.items()}


def figures(runs: list[Run], alone: list[Run], alone_per_s: float) -> dict[str, Any]:
    """One arm; `alone` has the run of the chat alone in each repeat."""
    pairs = list(zip(runs, alone, strict=True))
    return {
        "requests": sum(len(run.answers) for run in runs),
        "failed": sum(bool(answer.error) for run in runs for answer in run.answers),
        "busy_share": middle(run.busy_share for run in runs),
        "first_ms": {name: middle(run.first_ms(share) for run in runs) for name, share in SHARES.items()},
        "token_ms": {name: middle(run.token_ms(share) for run in runs) for name, share in SHARES.items()},
        "first_p95_ratio": middle(run.first_ms(0.95) / beside.first_ms(0.95) for run, beside in pairs),
        "token_p95_ratio": middle(run.token_ms(0.95) / beside.token_ms(0.95) for run, beside in pairs),
        "documents_per_s": middle(run.documents_per_s for run in runs),
        "harvest": middle(run.documents_per_s / (alone_per_s * (1 - beside.busy_share)) for run, beside in pairs),
        "runs": [
            {
                "busy_share": run.busy_share,
                "documents_per_s": run.documents_per_s,
                "first_p95_ms": run.first_ms(0.95),
                "token_p95_ms": run.token_ms(0.95),
            }
            for run in runs
        ],
    }


def middle(values: Iterable[float]) -> list[float]:
    """The median of the repeats, and its 95 % bootstrap interval."""
    found = list(values)
    rng = random.Random(SEED)
    resampled = sorted(median(rng.choices(found, k=len(found))) for _ in range(RESAMPLES))
    return [median(found), resampled[int(RESAMPLES * 0.025)], resampled[int(RESAMPLES * 0.975)]]


def progress(repeat: int, repeats: int, load: float, arm: str, run: Run) -> None:
    sys.stderr.write(
        f"repeat {repeat + 1}/{repeats}, load {load:.0%}, {arm}: busy {run.busy_share:.0%}, "
        f"{run.documents_per_s:.1f} documents/s\n"
    )


def show(told: dict[str, Any]) -> None:
    for load, arms in told["loads"].items():
        rows = [
            (
                name,
                f"{arm['requests']}" + (f" ({arm['failed']} failed)" if arm["failed"] else ""),
                " / ".join(f"{arm['first_ms'][p][0]:,.0f}" for p in ("p50", "p95", "p99")),
                "{:.2f} ({:.2f} to {:.2f})".format(*arm["first_p95_ratio"]),
                " / ".join(f"{arm['token_ms'][p][0]:,.1f}" for p in ("p50", "p95", "p99")),
                "{:.2f} ({:.2f} to {:.2f})".format(*arm["token_p95_ratio"]),
                f"{arm['documents_per_s'][0]:.1f}",
                "{:.2f} ({:.2f} to {:.2f})".format(*arm["harvest"]) if arm["documents_per_s"][0] else "",
            )
            for name, arm in arms.items()
        ]
        columns = (
            "arm", "requests", "first token p50 / p95 / p99 ms", "p95 ÷ alone", "per token p50 / p95 / p99 ms",
            "p95 ÷ alone", "documents/s", "harvest",
        )  # fmt: skip
        reporting.table(f"Load {load}; the chat alone was busy {arms['alone']['busy_share'][0]:.0%}", columns, rows)
        sys.stdout.write(aims(arms["holdshort"]))
    alone, capped = told["job_alone_documents_per_s"], told["capped_job_alone_documents_per_s"]
    sys.stdout.write(
        f"\nThe job alone: {alone['median']:.1f} documents/s ({alone['min']:.1f} to {alone['max']:.1f}); "
        f"capped: {capped['median']:.1f}\n"
    )


def aims(found: dict[str, Any]) -> str:
    """What Holdshort aims at, and whether it was reached; by the figure itself, not by its interval."""
    said = [
        f"{name.replace('_', ' ')} {found[name][0]:.2f}, at most {most:.2f}: {_met(found[name][0] <= most)}"
        for name, most in AIMS.items()
    ]
    harvest = found["harvest"][0]
    said.append(f"harvest {harvest:.2f}, at least {HARVEST_AIM:.2f}: {_met(harvest >= HARVEST_AIM)}")
    return f"aims: {'; '.join(said)}\n"


def _met(is_met: bool) -> str:
    return "met" if is_met else "NOT MET"


if __name__ == "__main__":
    main()
