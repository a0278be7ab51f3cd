"""Headroom as a duty cycle: the share of wall time that micro-batches may use. Pure: told the time."""

from __future__ import annotations

import math

WINDOW_S = 0.1
_LEAST = 0.001


class DutyCycle:
    """Saves up time while batch work stands still, and spends it while it runs.

    Time is saved at the rate of the headroom, up to what a window holds; a micro-batch that takes longer than was
    saved leaves a debt. So in any stretch of time work gets at most its share, a window's share and one micro-batch.

    Args:
        window_s: over how long the share is kept.
    """

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._saved_s = 0.0
        self._headroom = 1.0
        self._told = -math.inf

    def tell(self, headroom: float, now: float) -> None:
        """The headroom is this, from now on (monotonic seconds)."""
        if self._told > -math.inf:
            self._saved_s += (now - self._told) * self._headroom
        self._saved_s = min(self._saved_s, self._window_s * self._headroom)
        self._headroom, self._told = headroom, now

    def spend(self, seconds: float) -> None:
        """A micro-batch took so long."""
        self._saved_s -= seconds

    def may_start_at(self, needs_s: float, now: float) -> float:
        """When a micro-batch that is expected to take so long may begin: now, or later."""
        if self._headroom >= 1.0:
            self._saved_s = 0.0  # nothing is rationed, and no debt is carried into the time when it is
            return now
        wanted = min(needs_s, self._window_s * self._headroom)
        missing = wanted - self._saved_s
        return now if missing <= 1e-9 else now + missing / max(self._headroom, _LEAST)
