"""The bound on how often batch work is preempted. Pure: told the time."""

from __future__ import annotations

WINDOW_S = 60.0


class Preemptions:
    """Counts resumes, since there is no preemption without one before: at most so many in any minute.

    A thirtieth of them may come at once; the rest are earned evenly.

    Args:
        per_minute: the bound.
    """

    def __init__(self, per_minute: int) -> None:
        self._most = max(1.0, per_minute / 30)
        self._per_s = max(per_minute - self._most, 0.0) / WINDOW_S if per_minute > 1 else 1 / WINDOW_S
        self._left = self._most
        self._at: float | None = None

    def is_scarce(self, now: float) -> bool:
        """Whether more than half of what may come at once is used up."""
        self._earn(now)
        return self._left < self._most / 2

    def next_at(self, now: float) -> float:
        """When work may go on: now, or later."""
        self._earn(now)
        return now if self._left >= 1.0 else now + (1.0 - self._left) / self._per_s

    def take(self, now: float) -> None:
        """Work goes on now."""
        self._earn(now)
        self._left -= 1.0

    def _earn(self, now: float) -> None:
        if self._at is not None:
            self._left = min(self._most, self._left + max(0.0, now - self._at) * self._per_s)
        self._at = now
