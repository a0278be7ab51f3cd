"""Why a job is not running (or what it does), in one sentence. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .holds import Hold
from .presence import Beat
from .status import Status

_MOMENT_S = 3.0
"""A little more than the age of a heartbeat."""


@dataclass(frozen=True, slots=True)
class LaneHold:
    """A hold that is not an operator's: live traffic, or a source that fell silent.

    Attributes:
        source, reason: who says so and why.
        held_s: for how long.
    """

    source: str
    reason: str
    held_s: float


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the answer is made of.

    Attributes:
        lane: a hold of the pool's lane as it was just read; None: the workers' own word, a heartbeat old, counts.
        ahead: active jobs of the pool with a higher priority now, or the same and accepted earlier.
        depth: messages waiting in the pool's queue; None: the broker does not answer.
        unpublished: the job's messages may not be with the broker.
        now: seconds since the epoch.
    """

    status: Status
    workers: Sequence[Beat]
    hold: Hold | None
    ahead: int
    depth: int | None
    unpublished: bool
    now: float
    lane: LaneHold | None = None


def explain(facts: Facts) -> str:
    """One sentence, the nearest cause first."""
    status = facts.status
    progress = f"{status.done} of {status.rows} rows are done"
    if status.has_ended:
        return (
            f"The job has ended: {status.state}" + (f" ({status.reason})" if status.reason else "") + f"; {progress}."
        )
    if status.state == "cancelling":
        return f"The job is being cancelled; {progress}."
    if status.state == "paused":
        return f"The job is paused; `holdshort resume {status.id}` lets it go on; {progress}."
    # A heartbeat may be older than the turn that its worker took; who took the latest turns is in the ledger.
    busy = [w for w in facts.workers if w.job == status.id or (not w.job and w.worker_id in status.workers)]
    if facts.hold is not None:
        until = "until it is cleared"
        if facts.hold.until is not None:
            until = f"for another {max(0, round(facts.hold.until - facts.now))} s"
        return f"Pool {status.pool} is held by {facts.hold.by} {until}: {facts.hold.reason}; {progress}."
    holding = [w for w in busy or facts.workers if w.signal == "hold"]
    lane = facts.lane
    if lane is None and holding and len(holding) == len(busy or facts.workers):
        lane = LaneHold(holding[0].source, holding[0].reason, holding[0].held_s)
    if lane is not None and facts.workers:
        return (
            f"Its workers hold short: {lane.source} has had the lane of pool {status.pool} for {lane.held_s:.1f} s "
            f"({lane.reason}); {progress}."
        )
    if busy:
        rate = sum(worker.rows_per_s for worker in busy)
        left = f", about {(status.rows - status.done) / rate:.0f} s left" if rate > 0 else ""
        who = f"{len(busy)} worker{'s' if len(busy) > 1 else ''}"
        least = min(worker.headroom for worker in busy)
        share = "" if least >= 1.0 else f" for {least:.0%} of the time, which is what live traffic leaves"
        return f"It is running on {who}{share}; {progress}{left}."
    if not facts.workers:
        return (
            f"No worker is alive on pool {status.pool}; start one with "
            f"`holdshort worker {status.pool}` or `holdshort up`; {progress}."
        )
    if facts.depth is None:
        return f"The broker does not answer, and workers get their work from it; {progress}."
    others = sorted({worker.job for worker in facts.workers if worker.job})
    if status.state == "queued" and facts.now - status.accepted_at < _MOMENT_S and not others:
        return f"It was accepted a moment ago, and workers are idle; {progress}."
    if facts.unpublished:
        return f"Its messages are not with the broker yet; a controller publishes them (`holdshort up`); {progress}."
    if others:
        ahead = f"{facts.ahead} job{'s' if facts.ahead != 1 else ''} ahead" if facts.ahead else "its turn comes next"
        return (
            f"It waits for a worker: {len(facts.workers)} on pool {status.pool} work on {', '.join(others)}, "
            f"{ahead}; priority {status.priority}; {progress}."
        )
    return (
        f"Workers are idle but its messages are not in the queue ({facts.depth} waiting there); "
        f"`holdshort recover` publishes them again; {progress}."
        if facts.depth == 0
        else f"It is about to run: {facts.depth} messages wait and workers are idle; {progress}."
    )
