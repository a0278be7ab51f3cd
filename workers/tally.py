"""What a worker has done since it started: for its heartbeat and for metrics."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from .observer import Observer

_RATE_WINDOW_S = 60.0
_YIELDS_KEPT = 512
YIELD_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)


@dataclass(slots=True)
class Totals:
    """Sums since the worker started.

    Attributes:
        rows: answered, well or not.
        harvested_s: seconds of the engine that batch work got and kept.
        lost_rows, lost_s: micro-batches that were stopped for a hold: their rows, which run again, and the seconds of
            the engine that were thrown away.
        yields: how often running work came to a stand for a hold.
        hold_s: seconds for which work in hand stood still, or no message was taken, because of a hold.
        sources_lost: how often a source of the lane fell silent without goodbye.
        micro_batches: executed.
    """

    rows: int = 0
    harvested_s: float = 0.0
    lost_rows: int = 0
    lost_s: float = 0.0
    yields: int = 0
    hold_s: float = 0.0
    sources_lost: int = 0
    micro_batches: int = 0


class Tally(Observer):
    """Counts what a runner tells. Any thread may read."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.totals = Totals()
        self.yield_buckets = [0] * (len(YIELD_BUCKETS_S) + 1)
        """How many yields took at most each of YIELD_BUCKETS_S, and how many longer; not cumulated."""
        self.yield_s = 0.0
        self._clock = clock
        self._lock = threading.Lock()
        self._rows: deque[list[float]] = deque()  # [second, rows answered in it]
        self._yields: deque[float] = deque(maxlen=_YIELDS_KEPT)

    def ran(self, *, units: int, cost: int, seconds: float) -> None:
        self.totals.micro_batches += 1
        self.totals.harvested_s += seconds

    def lost(self, *, rows: int, seconds: float) -> None:
        self.totals.lost_rows += rows
        self.totals.lost_s += seconds

    def yielded(self, *, raised: float, seen: float, still: float) -> None:
        took_s = still - raised
        with self._lock:
            self.totals.yields += 1
            self.yield_s += took_s
            self._yields.append(took_s)
            self.yield_buckets[sum(took_s > edge for edge in YIELD_BUCKETS_S)] += 1

    def waited(self, *, seconds: float, reason: str) -> None:
        self.totals.hold_s += seconds

    def parked(self, *, seconds: float) -> None:
        self.totals.hold_s += seconds

    def source_lost(self, *, name: str) -> None:
        self.totals.sources_lost += 1

    def finished(self, *, rows: int) -> None:
        second = float(int(self._clock()))
        with self._lock:
            self.totals.rows += rows
            if self._rows and self._rows[-1][0] == second:
                self._rows[-1][1] += rows
            else:
                self._rows.append([second, rows])

    @property
    def rows_per_s(self) -> float:
        """Over the last minute of work."""
        now = self._clock()
        with self._lock:
            while self._rows and now - self._rows[0][0] > _RATE_WINDOW_S:
                self._rows.popleft()
            if not self._rows:
                return 0.0
            rows = sum(count for _, count in self._rows)
            return round(rows / max(now - self._rows[0][0], 0.5), 3)

    def yield_quantile_s(self, share: float) -> float | None:
        """What this share of the latest yields took at most, from raised to still; None before the first."""
        with self._lock:
            ordered = sorted(self._yields)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
