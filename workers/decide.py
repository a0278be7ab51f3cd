"""What a worker does next with the stripe in its hand. Pure: values in, a decision out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .lane.control import Permit

Why = Literal["lane", "duty", "preempted", "quantum", "shutdown", "paused", "cancelled", "expired", "taken_over", ""]


@dataclass(frozen=True, slots=True)
class Situation:
    """All that the decision depends on; times are monotonic seconds.

    Attributes:
        permit: whether the lane lets the next micro-batch run.
        quantum_ends: when the message has been held for long enough.
        park_after_s: how long a hold is waited out in place.
        stopping: the worker is asked to leave.
        cancelled, expired, paused, taken_over: what became of the job, or of our turn, meanwhile.
    """

    now: float
    permit: Permit
    quantum_ends: float
    park_after_s: float
    stopping: bool = False
    cancelled: bool = False
    expired: bool = False
    paused: bool = False
    taken_over: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """What to do, and why.

    Attributes:
        action: "advance" runs the next micro-batch; "pause" waits in place; "park" saves what is done and
            hands the message back; "stop" ends the stripe's work for good (here, or because another has it).
        reason: for people.
        until: monotonic seconds at which to decide again at the latest; None: when something changes.
    """

    action: Literal["advance", "pause", "park", "stop"]
    why: Why = ""
    reason: str = ""
    until: float | None = None


ADVANCE = Step("advance")


def next_step(at: Situation) -> Step:
    """Decide. What ends the work comes before what delays it."""
    if at.taken_over:
        return Step("stop", "taken_over", "a later turn of this stripe was taken")
    if at.cancelled:
        return Step("stop", "cancelled", "the job was cancelled")
    if at.expired:
        return Step("stop", "expired", "the job's deadline has passed")
    if at.stopping:
        return Step("park", "shutdown", "the worker shuts down")
    if at.paused:
        return Step("park", "paused", "the job is paused")
    permit = at.permit
    if permit.why == "lane":
        park_at = permit.since + at.park_after_s
        if at.now >= park_at:
            return Step("park", "lane", permit.reason)
        return Step("pause", "lane", permit.reason, until=min(park_at, permit.until or park_at))
    if at.now >= at.quantum_ends:
        return Step("park", "quantum", "the quantum is used up")
    if not permit.may_run:
        return Step("pause", permit.why, permit.reason, until=min(permit.until or at.quantum_ends, at.quantum_ends))
    return ADVANCE
