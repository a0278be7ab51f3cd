"""How live traffic fares: time to first byte and gaps between chunks over the last while."""

from __future__ import annotations

from collections import deque

from ..workers.lane.reading import Figures

_KEPT = 1024
_SECONDS = 60.0


class Meter:
    """Keeps the latest measurements, as many as fit into a minute and a fixed memory. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._first_bytes: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        self._gaps: deque[tuple[float, float]] = deque(maxlen=_KEPT)

    def first_byte(self, seconds: float, now: float) -> None:
        """An answer's first byte came so long after its request."""
        self._first_bytes.append((now, seconds))

    def gap(self, seconds: float, now: float) -> None:
        """A chunk came so long after the one before it."""
        self._gaps.append((now, seconds))

    def figures(self, in_flight: int, now: float, *, within_s: float = _SECONDS) -> Figures:
        """Medians and 95th percentiles over the last seconds; None for what was not measured lately."""
        first_byte, gap = _quantiles(self._first_bytes, now, within_s), _quantiles(self._gaps, now, within_s)
        return Figures(in_flight, *first_byte, *gap)


def _quantiles(kept: deque[tuple[float, float]], now: float, within_s: float) -> tuple[float | None, float | None]:
    while kept and now - kept[0][0] > _SECONDS:
        kept.popleft()
    ordered = sorted(seconds for at, seconds in kept if now - at <= within_s)
    if not ordered:
        return None, None
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
