"""A chatbot and an indexing job on one machine: what the chat feels, and what the job gets.

    python benchmarks/lane.py [--quick]

Real models on the CPU. The same seeded, open-loop chat traffic in every arm, and latencies are timed from the schedule:

    alone        the chat alone, straight to its server
    gateway      the chat alone, through the gateway: what that costs by itself
    unprotected  beside the indexing job, straight to the server, so nothing raises the lane
    capped       likewise, but the job has one thread and `nice 19`: the fixed low cap
    holdshort    beside the job, through the gateway, which raises the lane

for bursts that keep the chatbot busy 30, 60 and 90 % of the time. Arms take turns, all repeats through; quantiles are
taken over all requests of an arm, with 95 % bootstrap intervals over whole runs. Harvest = documents indexed ÷
(documents per second of the job alone × the time that the chat of the arm `alone` leaves idle).
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import reporting
from bench_worker import documents
from holdshort.cli.demo.figures import busy_s, documents_between, quantile
from holdshort.cli.demo.stage import POOL, Stage
from holdshort.cli.demo.traffic import Answered, Ask, bursts, drive
from holdshort.jobs import BatchInferenceJob, Client, Settings

SEED = 20261124
THREADS = 2
TOKENS = 32
BURST = 4
LOADS = (0.3, 0.6, 0.9)
ARMS = ("alone", "gateway", "unprotected", "capped", "holdshort")
RESAMPLES = 1000


@dataclass
class Run:
    """One arm, once."""

    answers: list[Answered]
    seconds: float
    busy_share: float
    documents_per_s: float


@dataclass
class Arm:
    """All runs of an arm at one load."""

    runs: list[Run] = field(default_factory=list[Run])

    def first(self, share: float, runs: Sequence[Run] | None = None) -> float:
        """Quantile of the time to first token, ms."""
        return _ms([a.first_s for run in runs or self.runs for a in run.answers if a.first_s is not None], share)

    def token(self, share: float, runs: Sequence[Run] | None = None) -> float:
        """Quantile of the time per token, ms."""
        return _ms([gap for run in runs or self.runs for a in run.answers for gap in a.gaps_s], share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one load, shorter runs, two repeats")
    quick: bool = parser.parse_args().quick
    seconds, repeats, loads = (8.0, 2, (0.6,)) if quick else (10.0, 5, LOADS)
    found: dict[tuple[float, str], Arm] = {(load, arm): Arm() for load in loads for arm in ARMS}
    alone_per_s: list[float] = []
    capped_per_s: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="holdshort-bench-") as folder,
        Stage(Path(folder), threads=THREADS) as stage,
    ):
        model = stage.model()
        gateway = stage.gateway(model)
        answer_s = calibrate(model)
        for repeat in range(repeats):
            with job(stage):
                alone_per_s.append(rate(stage, 4.0))
            with job(stage, capped=True):
                capped_per_s.append(rate(stage, 4.0))
            for load in loads:
                asks = schedule(load, answer_s, seconds, SEED + repeat)
                for arm in ARMS:
                    url = gateway if arm in ("gateway", "holdshort") else model
                    found[load, arm].runs.append(one(stage, arm, url, asks, seconds))
                    progress(repeat, repeats, load, arm, found[load, arm].runs[-1])
    told: dict[str, Any] = {
        "quick": quick, "seed": SEED, "threads_of_chat": THREADS, "tokens": TOKENS, "burst": BURST,
        "seconds_per_run": seconds, "repeats": repeats, "answer_alone_s": answer_s,
        "job_alone_documents_per_s": reporting.spread(alone_per_s),
        "capped_job_alone_documents_per_s": reporting.spread(capped_per_s),
        "loads": {f"{load:.0%}": summary(load, found, median(alone_per_s)) for load in loads},
    }  # fmt: skip
    show(told)
    reporting.write("lane", told)
    first = next(iter(told["loads"])) if quick else "60%"
    reporting.bars(
        "lane",
        f"A chatbot and an indexing job, the chat busy {first} of the time",
        {
            "first token p95 (ms)": {arm: told["loads"][first][arm]["first_ms"]["p95"][0] for arm in ARMS},
            "per token p95 (ms)": {arm: told["loads"][first][arm]["token_ms"]["p95"][0] for arm in ARMS},
            "documents/s": {arm: told["loads"][first][arm]["documents_per_s"] for arm in ARMS},
        },
        unit="", log=True,
    )  # fmt: skip


# -- running ---------------------------------------------------------------------------------------------


def calibrate(model: str) -> float:
    """Seconds of an undisturbed answer."""
    asks = bursts(1, seconds=20.0, answer_s=1.0, burst=1, idle_s=0.1, tokens=TOKENS)[:8]
    answered = drive(model, asks).result()
    return median(answer.tokens[-1] - answer.scheduled for answer in answered[2:])


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


def summary(load: float, found: dict[tuple[float, str], Arm], alone_per_s: float) -> dict[str, Any]:
    """All arms at a load, as figures with intervals, and beside the chat alone."""
    alone = found[load, "alone"]
    told: dict[str, Any] = {}
    for name in ARMS:
        arm = found[load, name]
        harvests = [
            run.documents_per_s / (alone_per_s * (1 - beside.busy_share))
            for run, beside in zip(arm.runs, alone.runs, strict=True)
        ]
        told[name] = {
            "requests": sum(len(run.answers) for run in arm.runs),
            "failed": sum(bool(a.error) for run in arm.runs for a in run.answers),
            "busy_share": median(run.busy_share for run in arm.runs),
            "first_ms": {f"p{share * 100:.0f}": interval(arm.runs, share, arm.first) for share in (0.5, 0.95, 0.99)},
            "token_ms": {f"p{share * 100:.0f}": interval(arm.runs, share, arm.token) for share in (0.5, 0.95, 0.99)},
            "first_p95_ratio": ratio(arm, alone, lambda a, runs: a.first(0.95, runs)),
            "token_p95_ratio": ratio(arm, alone, lambda a, runs: a.token(0.95, runs)),
            "documents_per_s": median(run.documents_per_s for run in arm.runs),
            "harvest": reporting.spread(harvests),
        }
    return told


def interval(runs: Sequence[Run], share: float, of: Any) -> list[float]:
    """A quantile over all runs, and its 95 % bootstrap interval over whole runs."""
    rng = random.Random(SEED)
    resampled = sorted(of(share, rng.choices(runs, k=len(runs))) for _ in range(RESAMPLES))
    return [of(share, runs), resampled[int(RESAMPLES * 0.025)], resampled[int(RESAMPLES * 0.975)]]


def ratio(arm: Arm, alone: Arm, of: Any) -> list[float]:
    """An arm's quantile ÷ that of the chat alone, with its 95 % bootstrap interval over pairs of runs."""
    rng = random.Random(SEED)
    pairs = list(zip(arm.runs, alone.runs, strict=True))

    def once(chosen: Sequence[tuple[Run, Run]]) -> float:
        return of(arm, [a for a, _ in chosen]) / of(alone, [b for _, b in chosen])

    resampled = sorted(once(rng.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    return [once(pairs), resampled[int(RESAMPLES * 0.025)], resampled[int(RESAMPLES * 0.975)]]


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
                f"{arm['documents_per_s']:.1f}",
                "{median:.2f} ({min:.2f} to {max:.2f})".format(**arm["harvest"]) if arm["documents_per_s"] else "",
            )
            for name, arm in arms.items()
        ]
        columns = (
            "arm", "requests", "first token p50 / p95 / p99 ms", "p95 ÷ alone", "per token p50 / p95 / p99 ms",
            "p95 ÷ alone", "documents/s", "harvest",
        )  # fmt: skip
        reporting.table(f"Load {load}; the chat alone was busy {arms['alone']['busy_share']:.0%}", columns, rows)
    alone, capped = told["job_alone_documents_per_s"], told["capped_job_alone_documents_per_s"]
    sys.stdout.write(
        f"\nThe job alone: {alone['median']:.1f} documents/s ({alone['min']:.1f} to {alone['max']:.1f}); "
        f"capped: {capped['median']:.1f}\n"
    )


def _ms(values: list[float], share: float) -> float:
    return (quantile(values, share) or 0.0) * 1000


if __name__ == "__main__":
    main()
