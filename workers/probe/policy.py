"""When others are busy enough that batch work should hold, and calm enough that it may go on. Pure: told the time.

It raises as soon as the mean over a short window reaches the threshold, because live traffic waits meanwhile. It
lowers late: once the mean has stayed well below the threshold for a while. So two raises are never closer together
than that while, and more load never means less holding.
"""

from __future__ import annotations

from collections import deque

WINDOW_S = 0.5
CALM_S = 2.0
LOW = 0.8


class Hysteresis:
    """Whether to hold for one measured share.

    Args:
        threshold: hold at this share or above, above 0.0 and at most 1.0.
        now: monotonic seconds at which measuring began.
        window_s: over how long shares are averaged. A share at the threshold or above for so long is held for.
        calm_s: for how long the mean has to stay below `low` times the threshold before a hold ends.
    """

    def __init__(
        self, threshold: float, *, now: float, window_s: float = WINDOW_S, calm_s: float = CALM_S, low: float = LOW
    ) -> None:
        self.threshold = threshold
        self.low = low * threshold
        self.calm_s = calm_s
        self.holds = False
        self.level = 0.0
        """The mean share over the window."""
        self._window_s = window_s
        self._told = now
        self._shares: deque[tuple[float, float, float]] = deque()  # begin, end, share
        self._calm_since = now

    def tell(self, share: float, now: float) -> bool:
        """The share was this since the last time (0.0 to 1.0); returns whether to hold now."""
        if now > self._told:
            self._shares.append((self._told, now, share))
            self._told = now
            self.level = self._mean(now)
        if self.level >= self.low:
            self._calm_since = now
        if self.level >= self.threshold:
            self.holds = True
        elif self.holds and now - self._calm_since >= self.calm_s:
            self.holds = False
        return self.holds

    def _mean(self, now: float) -> float:
        begin = now - self._window_s
        while self._shares[0][1] <= begin:
            self._shares.popleft()
        parts = [(end - max(start, begin), share) for start, end, share in self._shares]
        shares = [share for _, share in parts]
        mean = sum(seconds * share for seconds, share in parts) / sum(seconds for seconds, _ in parts)
        return min(max(mean, min(shares)), max(shares))  # where rounding took it outside
