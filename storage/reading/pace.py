"""How many requests at once pay. Pure: told what each took, and the time.

The goodput of a store grows with the requests under way until something is full: the store, the line, or the cores of
this machine. It is found by trying: more while more bring more, fewer when they do not, half when the store says that
it is too much.
"""

from __future__ import annotations

_FIRST = 64
_GROWTH = 1.5
_GAIN = 1.05
_SETTLED_S = 5.0
"""So long a limit that was found is kept, before a larger one is tried again."""


class Pace:
    """The limit of requests under way for one store.

    Args:
        most: never more than so many.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = min(_FIRST, most)
        self._best = 0.0
        self._before = 0
        """The limit before the one that is being tried; 0 when none is."""
        self._settled_until = 0.0
        self._began: float | None = None
        self._bytes = self._ends = 0
        self._was_full = True

    def ended(self, got_bytes: int, now: float, *, in_flight: int, waiting: int) -> None:
        """A request has brought so many bytes; others are under way, and wait for their turn (monotonic seconds)."""
        if in_flight == 0 and waiting == 0:
            self._began = None  # what comes next says nothing about the time until then
            return
        if self._began is None:
            self._forget(now)
            return
        self._bytes += got_bytes
        self._ends += 1
        self._was_full = self._was_full and waiting > 0
        if self._ends >= self.limit and now > self._began:
            if self._was_full:
                self._judge(self._bytes / (now - self._began), now)
            self._forget(now)

    def refused(self, now: float) -> None:
        """The store said that it is too much (503, 429)."""
        self.limit = max(1, self.limit // 2)
        self._best, self._before = 0.0, 0
        self._settled_until = now + _SETTLED_S

    def _forget(self, now: float) -> None:
        self._began, self._bytes, self._ends, self._was_full = now, 0, 0, True

    def _judge(self, goodput: float, now: float) -> None:
        if self._before and goodput < self._best * _GAIN:
            self.limit, self._before = self._before, 0
            self._settled_until = now + _SETTLED_S
        elif now >= self._settled_until and self.limit < self.most:
            self._best, self._before = goodput, self.limit
            self.limit = min(self.most, max(self.limit + 1, int(self.limit * _GROWTH)))
