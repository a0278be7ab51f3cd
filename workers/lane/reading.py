"""What a worker knows of its lane: one value, read between any two micro-batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Reading:
    """The lane of a pool's accelerators at one moment.

    Attributes:
        signal: "clear", or "hold" while live traffic (or an operator) has the accelerator.
        headroom: what batch work may use, 0.0 to 1.0.
        reason: for people, e.g. "deploy of chat v7".
        source: who says so, e.g. "operator ana".
        since: monotonic seconds at which this signal began, on this host.
        until: seconds since the epoch at which it ends by itself; None when it does not.
    """

    signal: Literal["clear", "hold"]
    headroom: float
    reason: str
    source: str
    since: float
    until: float | None = None


CLEAR = Reading("clear", 1.0, "no source holds", "", 0.0)
