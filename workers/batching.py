"""How units become micro-batches that take less than the yield bound. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

_U = TypeVar("_U")

_TARGET = 0.7
_GROWTH = 2.0
_REMEMBERED = 64


class BatchBudget:
    """How much cost fits into one micro-batch, learned from how long earlier ones took.

    The budget aims at 70 % of the bound by the slow end (p95) of the latest observations, at most doubles
    from one micro-batch to the next, and starts at a single unit.

    Args:
        bound_s: seconds that a micro-batch should take at most.
    """

    def __init__(self, bound_s: float) -> None:
        self.bound_s = bound_s
        self._budget = 1.0
        self._seconds_per_cost: deque[float] = deque(maxlen=_REMEMBERED)

    @property
    def cost(self) -> int:
        """Cost that the next micro-batch may have."""
        return max(1, int(self._budget))

    def expected_s(self, cost: int) -> float:
        """How long a micro-batch of this cost is likely to take (median); 0.0 before anything was observed."""
        if not self._seconds_per_cost:
            return 0.0
        ordered = sorted(self._seconds_per_cost)
        return ordered[len(ordered) // 2] * max(1, cost)

    def observe(self, cost: int, seconds: float) -> None:
        """Learn from a micro-batch of this cost that took this long."""
        cost = max(1, cost)
        if cost * 4 >= self._budget:  # a much smaller one tells more of its fixed part than of the rate
            self._seconds_per_cost.append(max(seconds, 1e-9) / cost)
        elif seconds < self.bound_s:
            return
        else:
            self._seconds_per_cost.append(seconds / cost)
        ordered = sorted(self._seconds_per_cost)
        slow = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
        # Growth starts from what was really tried: a single unit may cost far more than the first budget.
        ceiling = max(self._budget, cost) * _GROWTH
        self._budget = max(1.0, min(self.bound_s * _TARGET / slow, ceiling))


def take_batch(
    units: Sequence[_U], start: int, *, budget: int, cost: Callable[[Sequence[_U]], int], most: int = 4096
) -> int:
    """How many units from `start` on fit into one micro-batch: at least one, at most `most`.

    Args:
        cost: of executing the given units together; must not fall when a unit is added.
    """
    limit = min(len(units) - start, most)
    fits, beyond = 1, limit + 1
    probe = 2
    while fits + 1 < beyond:
        probe = min(probe, beyond - 1) if beyond <= limit else min(probe, limit)
        if cost(units[start : start + probe]) <= budget:
            fits = probe
            probe = probe * 2 if beyond > limit else (fits + beyond + 1) // 2
        else:
            beyond = probe
            probe = (fits + beyond) // 2
        if fits == limit:
            break
    return fits
