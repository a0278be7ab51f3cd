"""What is said of a lane, as plain values, and which of several words counts. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

Signal = Literal["clear", "hold"]

QUIET_S = 0.5
"""A lane that is clear for less is between two requests of a burst, as like as not."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The lane of a pool's accelerators at one moment.

    Attributes:
        signal: "clear", or "hold" while live traffic (or an operator) has the accelerator.
        headroom: the share of the accelerator's time that batch work may use, 0.0 to 1.0; 0.0 during a hold.
        reason: for people, e.g. "2 live requests".
        source: who says so, e.g. "gateway" or "operator ana".
        since: monotonic seconds, on this host, at which this signal began.
        until: monotonic seconds at which it ends by itself; None when it does not.
        is_lost: the source has fallen silent without goodbye, and is taken for a hold because of that.
    """

    signal: Signal
    headroom: float
    reason: str
    source: str
    since: float
    until: float | None = None
    is_lost: bool = False


CLEAR = Reading("clear", 1.0, "no source holds", "", 0.0)


@dataclass(frozen=True, slots=True)
class Figures:
    """What a source measures of its live traffic; seconds, None while unknown.

    Attributes:
        in_flight: live requests at the moment.
        first_byte_p50_s, first_byte_p95_s: from a request's arrival to the first byte of its answer.
        gap_p50_s, gap_p95_s: between two chunks of a streamed answer (a token's time, for most servers).
    """

    in_flight: int = 0
    first_byte_p50_s: float | None = None
    first_byte_p95_s: float | None = None
    gap_p50_s: float | None = None
    gap_p95_s: float | None = None


NO_FIGURES = Figures()


def strictest(readings: Iterable[Reading]) -> Reading:
    """The reading that counts: a hold before all else, the oldest first; then the least headroom, since all are clear.

    CLEAR when there is none.
    """
    found, clear_since = CLEAR, 0.0
    for reading in readings:
        if reading.signal == "hold":
            if found.signal == "clear" or reading.since < found.since:
                found = reading
            continue
        clear_since = max(clear_since, reading.since)
        if found.signal == "clear" and (reading.headroom < found.headroom or found is CLEAR):
            found = reading
    return found if found.signal == "hold" else replace(found, since=clear_since)


def is_quiet(reading: Reading, now: float) -> bool:
    """Whether it is a moment for what takes the machine and can't be interrupted, such as loading an engine."""
    return reading.signal == "clear" and now - reading.since >= QUIET_S
