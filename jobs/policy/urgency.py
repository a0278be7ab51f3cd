"""How urgent a job is now. Pure: the same in production, in tests and in a simulator.

Priorities go from 0 to 9, 9 the most urgent. A job begins at its class and is raised by waiting, so that nothing
starves, and by a deadline that comes near. Only a near deadline, or the submitter, reaches the top: age stops below.
"""

from __future__ import annotations

from ..record import JobRecord

HIGHEST = 9
AGE_STEP_S = 600.0
"""Seconds of waiting that raise a priority by one."""
AGE_CEILING = 8
SLACK_STEPS = ((0.05, 3), (0.2, 2), (0.5, 1))
"""Share of the time from acceptance to deadline that is left, below which the priority is raised by so much."""


def urgency(base: int, *, now: float, waiting_since: float, accepted_at: float, deadline_at: float | None) -> int:
    """Priority of a stripe that waits, 0 to 9. Times in seconds on one clock.

    Args:
        base: from the class.
        waiting_since: when it was last worked on, or accepted.
    """
    aged = base + int(max(0.0, now - waiting_since) / AGE_STEP_S)
    level = max(base, min(aged, AGE_CEILING))
    if deadline_at is not None:
        whole = max(deadline_at - accepted_at, 1e-9)
        left = (deadline_at - now) / whole
        level += next((raised for share, raised in SLACK_STEPS if left < share), 0)
    return min(HIGHEST, level)


def priority_now(record: JobRecord, *, now: float, waiting_since: float) -> int:
    """Priority with which a stripe of this job is to be published now."""
    return urgency(
        record.priority,
        now=now,
        waiting_since=waiting_since,
        accepted_at=record.accepted_at,
        deadline_at=record.deadline_at,
    )
