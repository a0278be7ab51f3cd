"""The demo on one axis of time: tokens, micro-batches, holds. Pure: what both pictures are drawn from."""

from __future__ import annotations

from dataclasses import dataclass

from .figures import Phase, figures
from .show import Shown

_PAUSE_S = 2.0


@dataclass(frozen=True, slots=True)
class Strip:
    """One phase, with its times counted from the beginning of the picture.

    Attributes:
        firsts: (when its request was due, seconds until it came) of each first token, however late.
        gaps: (when, seconds since the one before) of each later token that came within the phase.
        batches: (when, seconds) of each micro-batch that ran to its end; `lost`: that was stopped.
        holds: (from, to) while the lane was held.
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
    """All phases side by side.

    Attributes:
        killed: when the worker was.
        alone_p95: of the first phase: seconds to the first token, and per token.
    """

    strips: list[Strip]
    killed: float | None
    alone_p95: list[float]


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
    alone = figures(shown.phases[0])
    return Timeline(strips, killed, [found for found in (alone.first_p95_s, alone.token_p95_s) if found is not None])


def _strip(shown: Shown, phase: Phase, at: float) -> Strip:
    def place(then: float) -> float:
        return round(at + then - phase.start, 4)

    def within(event: str) -> list[tuple[float, float]]:
        return [
            (place(found["at"] - found["seconds"]), round(found["seconds"], 4))
            for found in shown.trace
            if found["event"] == event and phase.start <= found["at"] < phase.end
        ]

    return Strip(
        name=phase.name,
        start=at,
        end=at + phase.seconds,
        firsts=[
            (place(answer.scheduled), round(answer.first_s or 0.0, 4)) for answer in phase.answers if answer.tokens
        ],
        gaps=[
            (place(later), round(gap, 5))
            for answer in phase.answers
            for later, gap in zip(answer.tokens[1:], answer.gaps_s, strict=True)
            if later < phase.end
        ],
        batches=within("ran"),
        lost=within("lost"),
        holds=[
            (place(max(begin, phase.start)), place(min(end, phase.end)))
            for begin, end in shown.holds
            if begin < phase.end and end > phase.start
        ],
    )
