"""The demo on one axis of time: tokens, micro-batches, holds. Pure: what both pictures are drawn from."""

from __future__ import annotations

from dataclasses import dataclass

from .figures import Phase
from .show import Shown

_PAUSE_S = 2.0


@dataclass(frozen=True, slots=True)
class Strip:
    """One phase, with its times counted from the beginning of the picture.

    Attributes:
        firsts, gaps: (when, seconds) of each request's first token, and of each later one.
        batches: (when, seconds) of each micro-batch that ran to its end; `lost`: that was stopped.
        holds: (from, to) while work stood still for a hold.
    """

    name: str
    start: float
    end: float
    firsts: list[tuple[float, float]]
    gaps: list[tuple[float, float]]
    batches: list[tuple[float, float]]
    lost: list[tuple[float, float]]
    holds: list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Timeline:
    """All phases side by side; `killed` is when the worker was."""

    strips: list[Strip]
    killed: float | None


def timeline(shown: Shown) -> Timeline:
    """The picture's content. Between two phases there is a little space, whatever happened in between."""
    strips: list[Strip] = []
    killed: float | None = None
    at = 0.0
    for phase in shown.phases:
        strips.append(_strip(shown, phase, at))
        if shown.killed and phase.start <= shown.killed_at < phase.end:
            killed = at + shown.killed_at - phase.start
        at += phase.seconds + _PAUSE_S
    return Timeline(strips, killed)


def _strip(shown: Shown, phase: Phase, at: float) -> Strip:
    def place(then: float) -> float:
        return round(at + then - phase.start, 4)

    def within(event: str) -> list[tuple[float, float]]:
        return [
            (place(found["at"] - found["seconds"]), round(found["seconds"], 4))
            for found in shown.trace
            if found["event"] == event and phase.start <= found["at"] < phase.end
        ]

    firsts = [(place(a.tokens[0]), round(a.first_s or 0.0, 4)) for a in phase.answers if a.tokens]
    gaps = [
        (place(later), round(gap, 5))
        for answer in phase.answers
        for later, gap in zip(answer.tokens[1:], answer.gaps_s, strict=True)
    ]
    cut = phase.end - phase.start + at
    return Strip(
        phase.name, at, cut,
        [found for found in firsts if found[0] <= cut], [found for found in gaps if found[0] <= cut],
        within("ran"), within("lost"), [(then, then + seconds) for then, seconds in within("waited")],
    )  # fmt: skip
