"""A time-out that progress puts off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Patience:
    """Calls `expired` once nothing has happened for a while. To put it off costs one assignment, not a timer.

    Args:
        expired: called in the loop's thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._expired = expired
        self._seconds = 0.0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self, seconds: float) -> None:
        """Wait from now on, for so long; takes the place of an earlier wait."""
        self.stop()
        self._seconds = seconds
        self._due = self._loop.time() + seconds
        self._timer = self._loop.call_at(self._due, self._check)

    def put_off(self) -> None:
        """Something has happened: wait anew, if we wait at all."""
        self._due = self._loop.time() + self._seconds

    def stop(self) -> None:
        """Wait no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        # uvloop's timers have a resolution of a millisecond, and may ring within one too early.
        if self._loop.time() < self._due - 0.001:
            self._timer = self._loop.call_at(self._due, self._check)
        else:
            self._timer = None
            self._expired()
