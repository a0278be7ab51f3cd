"""The three phases, one after the other, and what came of them."""

from __future__ import annotations

import math
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...storage.errors import HoldshortError
from .documents import write_documents
from .figures import Phase, busy_s, documents_between, harvest, lost_s, yields
from .stage import POOL, Stage
from .traffic import Ask, Driving, bursts, drive
from .watch import LaneWatch

if TYPE_CHECKING:
    import subprocess

    from ...jobs import Client, Job

SEED = 20261124
THREADS = 2
"""Of the chatbot, where it has the machine to itself: they wait for each other at every step, so one that others keep
from its core keeps them all."""
TOKENS = 32
BURST = 4
IDLE_S = 2.5
_ALONE_S = 6.0
_WARM_UP = 4
_LEAST_ASKS = 10
_FULL = 0.9
_KILL_AT = 0.45
_KILL_WITHIN_S = 0.2
_LATE_KILL_S = 20.0
_WRITTEN_S = 0.25
"""After so long, what workers wrote down can be read."""
_MANY = 20_000
_SPARE = 1.3
"""So many times as many documents as the job may index with Holdshort while the phase lasts: it never runs empty."""
_SHARD_ROWS = 24
QUESTIONS = (
    "compress a file so that it takes less space",
    "start another program and read what it prints",
    "wait until several threads have reached the same point",
)


@dataclass(slots=True)
class Shown:
    """Everything that the demo measured and counted.

    Attributes:
        answer_s: the chatbot's time for an answer when it is undisturbed: the fastest of a few.
        alone_per_s: documents per second of the job alone.
        busy_share: how much of the first phase the chat took.
        offered_share: how much of it the chat would take if each answer were as fast as an undisturbed one.
        killed_at: monotonic seconds.
        done_again: documents that had to be computed once more, since the killed worker had not committed them.
        yields_s: with Holdshort, how long running work went on after each hold was raised.
        lost_s: with Holdshort, how much of the job's work was thrown away for holds.
        left_at_end: documents that were still to be indexed when the third phase was over.
        trace: what the workers wrote down.
        holds: (from, to) in monotonic seconds, while the lane was held.
    """

    documents: int = 0
    answer_s: float = 0.0
    alone_per_s: float = 0.0
    busy_share: float = 0.0
    offered_share: float = 0.0
    harvest: float | None = None
    phases: list[Phase] = field(default_factory=list[Phase])
    killed: int = 0
    killed_at: float = 0.0
    killed_in_shard: int = -1
    done_again: int = 0
    yields_s: list[float] = field(default_factory=list[float])
    lost_s: float = 0.0
    left_at_end: int = 0
    went_on_at_shards: list[int] = field(default_factory=list[int])
    results: int = 0
    distinct: int = 0
    ok: int = 0
    shards: int = 0
    answers: dict[str, list[tuple[str, float]]] = field(default_factory=dict[str, list[tuple[str, float]]])
    trace: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    holds: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])

    @property
    def exactly_once(self) -> bool:
        """Whether each document has one result, and that is ok."""
        return self.documents == self.results == self.distinct == self.ok


def show(stage: Stage, *, documents: int, seconds: float, say: Callable[[str], None]) -> Shown:
    """Run the demo on a stage; `seconds` is the length of a phase."""
    from ...jobs import Client, Settings
    from ...workers.lane.place import LanePlace

    shown = Shown()
    found = write_documents(stage.folder / "documents", documents)
    say(f"1. {found} documents to index: docstrings of Python's standard library, one file each")
    model = stage.model()
    asks = _calibrated(model, shown, seconds)
    say(
        f"   the chatbot: SmolLM2-135M-Instruct, --threads {stage.threads}, {shown.answer_s:.2f} s for {TOKENS} "
        f"tokens; {len(asks)} requests in bursts of {BURST}, the same in each phase (seed {SEED}); they keep it busy "
        f"for {shown.offered_share:.0%} of the time"
    )
    if shown.offered_share > _FULL:
        say("   that is more than the chatbot can well serve here, even alone: all its figures will be bad")
    say(f"2. {seconds:.0f} s: the chat alone")
    alone = _phase("alone", model, asks, seconds)
    shown.busy_share = busy_s(alone.answers, alone.start, alone.end) / alone.seconds
    with (
        _OwnSettings(stage),
        Client(settings=(settings := Settings.load())) as client,
        LaneWatch(LanePlace.of(settings), POOL) as watch,
    ):
        up = stage.up()
        job = _submit(client, _documents(stage, _MANY), key="unprotected")
        _until_it_runs(stage, up)
        alone_s = min(_ALONE_S, seconds / 3)
        say(f"3. {alone_s:.0f} s: the indexing job alone")
        shown.alone_per_s = _rate(stage, alone_s)
        say(f"   {seconds:.0f} s: both, unprotected: the chat goes straight to its server, so nothing raises the lane")
        phases = [alone, _phase("unprotected", model, asks, seconds, then=lambda: job.cancel("the phase is over"))]
        job.wait(timeout=60)
        gateway = stage.gateway(model)
        say(f"4. {seconds:.0f} s: both, with Holdshort: the chat goes through the gateway, and the worker gets killed")
        idle_s = (1 - shown.busy_share) * seconds
        shown.documents = max(found, math.ceil(_SPARE * shown.alone_per_s * idle_s))
        begun = time.monotonic()
        job = _submit(client, _documents(stage, shown.documents), key="holdshort")
        _until_it_runs(stage, up)
        kill = partial(_kill_worker, stage, client, job, watch, shown, say)
        phases.append(_phase("holdshort", gateway, asks, seconds, middle=(_KILL_AT * seconds, kill)))
        shown.left_at_end = shown.documents - job.status().done
        say("5. the rest of the documents")
        if not shown.killed:  # the chat left the job no moment in which to be killed at work
            kill(time.monotonic() + _LATE_KILL_S)
        job.wait(timeout=600)
        stage.check(up, "up")
        time.sleep(_WRITTEN_S)
        shown.trace, shown.holds = stage.trace(), list(watch.holds)
        shown.done_again = max(0, documents_between(shown.trace, begun, time.monotonic()) - shown.documents)
        shown.phases = [_counted(phase, shown.trace) for phase in phases]
        protected = shown.phases[2]
        if shown.killed_at < protected.end:
            protected = replace(protected, documents=protected.documents - shown.done_again)
            shown.phases[2] = protected
        shown.yields_s = yields(shown.trace, protected.start, protected.end)
        shown.lost_s = lost_s(shown.trace, protected.start, protected.end)
        shown.harvest = harvest(protected.documents, alone_per_s=shown.alone_per_s, idle_s=idle_s)
        _count(client, job, shown)
        _search(client, job, shown)
    return shown


def _calibrated(model: str, shown: Shown, seconds: float) -> list[Ask]:
    """The schedule, fitted to how long an answer takes here when nothing disturbs it."""
    asks = bursts(1, seconds=60.0, answer_s=1.0, burst=1, idle_s=0.1, tokens=TOKENS)[:_WARM_UP]
    driving = drive(model, asks)
    try:
        answered = driving.result()
    finally:
        driving.end()
    if any(answer.error for answer in answered):
        raise HoldshortError(f"The chatbot does not answer: {answered[0].error}")
    # The fastest: whatever disturbs an answer only makes it slower.
    shown.answer_s = min(answer.tokens[-1] - answer.scheduled for answer in answered[1:])
    # However slow the machine is, each phase has its requests; what that means for the chat alone is said.
    spaced_s = min(shown.answer_s, seconds / _LEAST_ASKS)
    asks = bursts(SEED, seconds=seconds, answer_s=spaced_s, burst=BURST, idle_s=IDLE_S, tokens=TOKENS)
    shown.offered_share = len(asks) * shown.answer_s / seconds
    return asks


def _phase(
    name: str,
    url: str,
    asks: list[Ask],
    seconds: float,
    *,
    middle: tuple[float, Callable[[float], object]] | None = None,
    then: Callable[[], object] = lambda: None,
) -> Phase:
    """Drive the chat for a phase; do something in the middle of it (told when it ends), and something at its end."""
    driving: Driving = drive(url, asks)
    try:
        start = driving.started
        if middle is not None:
            _sleep_until(start + middle[0])
            middle[1](start + seconds)
        _sleep_until(start + seconds)
        then()
        return Phase(name, start, start + seconds, driving.result())
    finally:
        driving.end()


def _counted(phase: Phase, trace: list[dict[str, Any]]) -> Phase:
    return Phase(phase.name, phase.start, phase.end, phase.answers, documents_between(trace, phase.start, phase.end))


def _sleep_until(at: float) -> None:
    time.sleep(max(0.0, at - time.monotonic()))


class _OwnSettings:
    """The stage's configuration as this process's own, for as long as it lasts."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._before = dict(os.environ)

    def __enter__(self) -> None:
        for name in [name for name in os.environ if name.startswith("HOLDSHORT_")]:
            del os.environ[name]
        os.environ.update({n: v for n, v in self._stage.environment.items() if n.startswith("HOLDSHORT_")})

    def __exit__(self, *_: object) -> None:
        os.environ.clear()
        os.environ.update(self._before)


def _submit(client: Client, documents: Iterator[dict[str, str]], *, key: str) -> Job:
    from ...jobs import BatchInferenceJob

    job = BatchInferenceJob(
        pool=POOL, input=documents, priority="bulk", shard_rows=_SHARD_ROWS, idempotency_key=key, metadata={"demo": key}
    )
    return client.submit(job)


def _documents(stage: Stage, count: int) -> Iterator[dict[str, str]]:
    """So many documents: all that there are, and again from the first one on as long as it takes."""
    texts = [(path.stem, path.read_text(encoding="utf-8")) for path in sorted((stage.folder / "documents").iterdir())]
    for number in range(count):
        name, text = texts[number % len(texts)]
        again = number // len(texts)
        yield {"custom_id": f"{name}#{again}" if again else name, "input": text}


def _until_it_runs(stage: Stage, up: subprocess.Popen[bytes]) -> None:
    """Wait until micro-batches run, and have found their size."""
    begin, end = time.monotonic(), time.monotonic() + 60
    while sum(event["event"] == "ran" and event["at"] >= begin for event in stage.trace()) < 20:
        stage.check(up, "up")
        if time.monotonic() > end:
            raise HoldshortError("The indexing job of the demo did not begin within 60 s.")
        time.sleep(0.1)


def _rate(stage: Stage, seconds: float) -> float:
    start = time.monotonic()
    time.sleep(seconds)
    end = time.monotonic()
    time.sleep(_WRITTEN_S)
    return documents_between(stage.trace(), start, end) / (end - start)


def _kill_worker(
    stage: Stage, client: Client, job: Job, watch: LaneWatch, shown: Shown, say: Callable[[str], None], end: float
) -> None:
    """Kill the process that works on the job, as soon as it really does: not one that has just parked for a hold."""
    while True:
        if time.monotonic() > end:
            return
        # What it wrote may be a tenth of a second old, and must be younger than the last hold.
        if watch.clear_for_s() > _KILL_WITHIN_S + 0.1 and stage.writes_trace(within_s=_KILL_WITHIN_S):
            working = [beat for pool in client.pools() for beat in pool.workers if beat.job == job.id]
            if working:
                break
        time.sleep(0.05)
    os.kill(working[0].pid, signal.SIGKILL)
    shown.killed, shown.killed_at = working[0].pid, time.monotonic()
    committed = client.ledger.committed(job.id)
    open_shards = sorted(set(range(job.record.shards)) - set(committed))
    mine = (shard for shard in open_shards if shard % job.record.stripes == working[0].stripe)
    shown.killed_in_shard = next(mine, open_shards[0] if open_shards else -1)
    say(
        f"   killed worker process {shown.killed} with SIGKILL in the middle of shard {shown.killed_in_shard}, with "
        f"{len(committed)} of {job.record.shards} shards committed; `up` starts another one"
    )


def _count(client: Client, job: Job, shown: Shown) -> None:
    ids: Counter[str] = Counter()
    for row in job.results(follow=False):
        ids[row.custom_id] += 1
        shown.ok += row.outcome == "ok"
    shown.results, shown.distinct = sum(ids.values()), len(ids)
    shown.shards = len(client.ledger.committed(job.id))
    shown.went_on_at_shards = [
        stripe + turn.progress.position * job.record.stripes for stripe, turn in client.ledger.turns_taken_again(job.id)
    ]


def _search(client: Client, job: Job, shown: Shown) -> None:
    import numpy as np

    from ...jobs import BatchInferenceJob

    names: list[str] = []
    vectors: list[list[float]] = []
    for row in job.results(follow=False):
        if "#" not in row.custom_id:  # each document once
            names.append(row.custom_id)
            vectors.append(row.embedding)
    index = np.asarray(vectors, dtype=np.float32)
    asked = client.submit(BatchInferenceJob(pool=POOL, input=list(QUESTIONS), priority="urgent"))
    for question, row in zip(QUESTIONS, asked.results(), strict=True):
        scores = index @ np.asarray(row.embedding, dtype=np.float32)
        best = np.argsort(-scores)[:3]
        shown.answers[question] = [(names[place], round(float(scores[place]), 3)) for place in best]


def state(folder: Path) -> str:
    """Where everything is, for people."""
    return f"Everything is in {folder}; look around with: holdshort --config {folder}/holdshort.toml jobs --all"
