"""What came of a phase, in figures. Pure: times in, numbers out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .traffic import Answered

_LEAST_POSSIBLE = 10
"""Documents."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase as it went. Times are monotonic seconds.

    Attributes:
        name: "alone", "unprotected" or "holdshort".
        answers: of the chat.
        documents: that were indexed within it.
    """

    name: str
    start: float
    end: float
    answers: list[Answered]
    documents: int = 0

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Figures:
    """A phase in numbers; seconds, None where nothing was measured.

    Attributes:
        late: requests whose answer had not ended when the phase was over: the last of it came undisturbed.
    """

    requests: int
    failed: int
    late: int
    first_p50_s: float | None
    first_p95_s: float | None
    token_p50_s: float | None
    token_p95_s: float | None
    token_p99_s: float | None
    documents_per_s: float


def figures(phase: Phase) -> Figures:
    """The numbers of a phase; requests without a whole answer count as failed, their tokens all the same."""
    firsts = [answer.first_s for answer in phase.answers if answer.first_s is not None]
    gaps = [gap for answer in phase.answers for gap in answer.gaps_s]
    return Figures(
        requests=len(phase.answers),
        failed=sum(bool(answer.error) for answer in phase.answers),
        late=sum(bool(answer.tokens) and answer.tokens[-1] > phase.end for answer in phase.answers),
        first_p50_s=quantile(firsts, 0.5),
        first_p95_s=quantile(firsts, 0.95),
        token_p50_s=quantile(gaps, 0.5),
        token_p95_s=quantile(gaps, 0.95),
        token_p99_s=quantile(gaps, 0.99),
        documents_per_s=phase.documents / phase.seconds,
    )


def quantile(values: Sequence[float], share: float) -> float | None:
    """The value below which this share lies (nearest rank); None of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def busy_s(answers: Iterable[Answered], start: float, end: float) -> float:
    """For how long at least one request was under way, from its scheduled time to its last token."""
    total, until = 0.0, start
    for answer in sorted(answers, key=lambda one: one.scheduled):
        begin, last = max(answer.scheduled, until), min(answer.tokens[-1] if answer.tokens else answer.scheduled, end)
        if last > begin:
            total += last - begin
            until = last
    return total


def harvest(documents: int, *, alone_per_s: float, idle_s: float) -> float | None:
    """Documents indexed ÷ those that the job alone would have indexed in the time that the chat alone leaves.

    None if that is hardly any: the ratio would say nothing.
    """
    possible = alone_per_s * idle_s
    return documents / possible if possible >= _LEAST_POSSIBLE else None


def yields(trace: Iterable[dict[str, Any]], start: float, end: float) -> list[float]:
    """How long running work went on after a hold was raised, for each hold in a span of time that stopped some."""
    return [
        event["still"] - event["raised"]
        for event in trace
        if event["event"] == "yielded" and start <= event["at"] < end
    ]


def lost_s(trace: Iterable[dict[str, Any]], start: float, end: float) -> float:
    """Seconds of micro-batches that were thrown away for holds."""
    return sum(event["seconds"] for event in trace if event["event"] == "lost" and start <= event["at"] < end)


def documents_between(trace: Iterable[dict[str, Any]], start: float, end: float) -> int:
    """Documents that workers answered in a span of time, by their trace."""
    return sum(event["rows"] for event in trace if event["event"] == "finished" and start <= event["at"] < end)
