"""What live traffic was promised, and how much headroom the keeping of it leaves to batch work. Pure: told the time.

Additive increase, multiplicative decrease, as in TCP (Chiu and Jain, 1989): headroom grows slowly while the measured
p95 stays well below the promise, and is halved as soon as it is above.
"""

from __future__ import annotations

from ..workers.lane.reading import Figures

_RISE_PER_S = 0.02
_WELL_BELOW = 0.8
_LEAST = 0.05
_MOST = 0.9
_HALVE_EVERY_S = 2.0


class Promise:
    """Turns measurements into headroom.

    Args:
        first_byte_s, gap_s: the promised p95; None where nothing was promised.
    """

    def __init__(self, *, first_byte_s: float | None, gap_s: float | None) -> None:
        self._first_byte_s = first_byte_s
        self._gap_s = gap_s
        self._headroom = 0.0
        self._told: float | None = None
        self._halved: float | None = None

    @property
    def was_made(self) -> bool:
        """Whether anything was promised; without that, live traffic leaves no headroom."""
        return self._first_byte_s is not None or self._gap_s is not None

    def headroom(self, figures: Figures, now: float) -> float:
        """The share of time for batch work from `now` (monotonic seconds) on; 0.0 while nothing is known."""
        elapsed_s = 0.0 if self._told is None else max(0.0, now - self._told)
        self._told = now
        used = self._used(figures)
        if used is None:
            self._headroom = 0.0
        elif used > 1.0:
            if self._halved is None or now - self._halved >= _HALVE_EVERY_S:
                self._halved = now
                self._headroom = self._headroom / 2 if self._headroom / 2 >= _LEAST else 0.0
        elif used < _WELL_BELOW:
            self._headroom = min(_MOST, max(_LEAST, self._headroom + _RISE_PER_S * elapsed_s))
        return self._headroom

    def reason(self, figures: Figures) -> str:
        """For people: the measurement that is nearest to its promise."""
        found = max(self._each(figures), default=None)
        if found is None:
            return "live requests, none measured yet"
        _, what, measured_s, promised_s = found
        return f"live requests, {what} p95 is {measured_s * 1000:.0f} ms of the promised {promised_s * 1000:.0f}"

    def _used(self, figures: Figures) -> float | None:
        each = self._each(figures)
        return max(used for used, *_ in each) if each else None

    def _each(self, figures: Figures) -> list[tuple[float, str, float, float]]:
        pairs = (
            ("first byte", figures.first_byte_p95_s, self._first_byte_s),
            ("gap", figures.gap_p95_s, self._gap_s),
        )
        return [
            (measured / promised, what, measured, promised)
            for what, measured, promised in pairs
            if measured is not None and promised is not None
        ]
