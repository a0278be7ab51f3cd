"""The operator's hold as a lane source: read from the store in the background, so a reading costs nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from ...jobs.holds import Hold, read_hold
from ...storage.errors import StoreError
from ...storage.store import Store
from .reading import CLEAR, Reading

log = logging.getLogger(__name__)

_SAME_S = 0.5


class OperatorLane:
    """Follows the hold on one pool.

    Args:
        interval_s: how often the store is asked.
        on_change: called, from the background thread, after the reading changed.
    """

    def __init__(
        self,
        store: Store,
        pool: str,
        *,
        interval_s: float = 0.25,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self._store = store
        self._pool = pool
        self._interval_s = interval_s
        self._on_change = on_change
        self._reading = CLEAR
        self._unreadable = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"lane-{pool}", daemon=True)

    def start(self) -> None:
        """Begin to follow; returns after the first look, so that no work starts on a lane that is held."""
        self._look()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def reading(self) -> Reading:
        """The latest reading."""
        return self._reading

    def _follow(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._look()

    def _look(self) -> None:
        try:
            hold = read_hold(self._store, self._pool, now=time.time())
        except StoreError as error:
            # Keep the last reading: a worker waits for the store anyway before it commits anything.
            if not self._unreadable:
                log.warning("the hold on pool %s can't be read: %s", self._pool, error)
            self._unreadable = True
            return
        self._unreadable = False
        before, self._reading = self._reading, self._to_reading(hold)
        if self._reading != before:
            log.info("lane of pool %s: %s (%s)", self._pool, self._reading.signal, self._reading.reason)
            if self._on_change is not None:
                self._on_change()

    def _to_reading(self, hold: Hold | None) -> Reading:
        before = self._reading
        if hold is None:
            return before if before.signal == "clear" else Reading("clear", 1.0, CLEAR.reason, "", time.monotonic())
        found = as_reading(hold)
        # Two clocks never agree on the same moment twice.
        same_end = (before.until is None) == (found.until is None) and (
            before.until is None or found.until is None or abs(before.until - found.until) < _SAME_S
        )
        since = before.since if before.signal == "hold" else time.monotonic()
        return replace(found, since=since, until=before.until if same_end else found.until)


def as_reading(hold: Hold) -> Reading:
    """An operator's hold as a reading, its times turned into monotonic ones by the wall clock of this host."""
    ahead_s = time.monotonic() - time.time()
    until = None if hold.until is None else hold.until + ahead_s
    return Reading("hold", 0.0, hold.reason, f"operator {hold.by}", hold.since + ahead_s, until)
