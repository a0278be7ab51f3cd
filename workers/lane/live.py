"""Live requests as a source of the lane: the first one raises it, the last one lowers it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from .linger import Linger
from .source import Source


class Live:
    """Counts the live requests of a server over its sources. Thread-safe; never waits for anything.

    Also a context manager around one request, sync and async, which may be entered again while it is entered.

    Args:
        sources: one for each pool (and device) that the server shares.
        linger: how long to stay raised after the last one.
        what: what is counted, for people: "live requests".
    """

    def __init__(
        self,
        sources: Sequence[Source],
        linger: Linger | None = None,
        *,
        what: str = "live requests",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sources = sources
        self._linger = linger or Linger()
        self._what = self._why = what
        self._clock = clock
        self._lock = threading.Lock()
        self._reopen: Callable[[], Sequence[Source]] | None = None
        self._count = 0
        self._headroom = 0.0
        self._raised_at = 0.0
        self._raised_s = 0.0

    @property
    def in_flight(self) -> int:
        """Live requests now."""
        return self._count

    @property
    def raised_s(self) -> float:
        """Seconds for which there was a live request, in all."""
        with self._lock:
            return self._raised_s + (self._clock() - self._raised_at if self._count else 0.0)

    @property
    def headroom(self) -> float:
        """The share of time that batch work may have while requests are live; 0.0: it holds."""
        return self._headroom

    @headroom.setter
    def headroom(self, share: float) -> None:
        self.leave(share, self._what)

    def leave(self, headroom: float, reason: str) -> None:
        """Leave this share of the time to batch work while requests are live; `reason` is for people."""
        with self._lock:
            changed = headroom != self._headroom
            self._headroom, self._why = headroom, reason
            if changed and self._count:
                self._raise()

    def begin(self, conversation: Hashable = None) -> None:
        """A request has arrived. Raises the lane before it returns."""
        with self._lock:
            if self._reopen is not None:
                self.sources, self._reopen = self._reopen(), None
            self._count += 1
            if self._count == 1:
                self._raised_at = self._clock()
                self._raise()
            if conversation is not None:
                self._linger.began(conversation, self._clock())

    def end(self, conversation: Hashable = None) -> None:
        """The last byte of its answer was sent, or it was given up. One that never began is overlooked."""
        with self._lock:
            if self._count == 0:
                return
            self._count -= 1
            now = self._clock()
            if conversation is not None:
                self._linger.ended(conversation, now)
            if self._count == 0:
                self._raised_s += now - self._raised_at
                self._lower()

    def close(self) -> None:
        """Say goodbye for all sources. Raises LaneError if that is said, but a map can't be removed."""
        with ExitStack() as each:
            for source in self.sources:
                each.callback(source.close)

    def forked(self, reopen: Callable[[], Sequence[Source]]) -> None:
        """In a forked child: nothing is live here yet, and the first request opens sources of our own."""
        self._lock = threading.Lock()
        self._reopen = reopen
        self._count = 0

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    async def __aenter__(self) -> Self:
        self.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def _raise(self) -> None:
        for source in self.sources:
            source.clear(headroom=self._headroom, reason=self._why)

    def _lower(self) -> None:
        wait_s = self._linger.wait_s
        for source in self.sources:
            if wait_s > 0.0 and self._headroom == 0.0:
                # It ends by itself: no thread has to wake up for it.
                source.hold(f"the next of {self._what} is expected", for_s=wait_s)
            else:
                source.clear()
