"""What one worker reads: its host's sources and the operator's hold, the strictest of them."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ...jobs.settings import Settings
from ...storage.store import Store
from .operator import OperatorLane
from .place import LanePlace
from .reader import LaneReader, log_loss
from .reading import Reading, strictest

_LISTEN_S = 1.0


class WorkerLane:
    """A pool's lane, as its workers on this host see it.

    Args:
        device: the worker's accelerator; "" heeds those of all.
        on_change: called, from a background thread, after a source or the operator said something else.
        on_lost: called with a source's name each time one fell silent without goodbye.

    Raises:
        UnknownPool: no such pool.
        LaneError: the lane's folder can't be used on this host.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        pool: str,
        *,
        device: str = "",
        on_change: Callable[[], None] | None = None,
        on_lost: Callable[[str], None] | None = None,
    ) -> None:

        def lost(name: str) -> None:
            log_loss(name)
            if on_lost is not None:
                on_lost(name)

        self._on_change = on_change
        self._over = False
        self._operator = OperatorLane(store, pool, on_change=on_change)
        self.reader = LaneReader(
            LanePlace.of(settings),
            pool,
            device=device,
            signal_loss_timeout_s=settings.pool(pool).signal_loss_timeout_s,
            on_lost=lost,
        )

    def start(self) -> None:
        """Begin to follow; returns after the first look, so that no work starts on a lane that is held."""
        self._operator.start()
        if self._on_change is not None:
            threading.Thread(target=self._listen, args=(self._on_change,), name="lane-bell", daemon=True).start()

    def stop(self) -> None:
        self._over = True
        self._operator.stop()

    def reading(self) -> Reading:
        """The latest reading; costs less than a microsecond while nothing changes."""
        operator = self._operator.reading()
        if operator.signal == "clear":
            return self.reader.reading()
        return strictest((operator, self.reader.reading()))

    def _listen(self, on_change: Callable[[], None]) -> None:
        rung = self.reader.rung
        while not self._over:
            self.reader.wait(rung, _LISTEN_S)
            if self.reader.rung != rung:
                rung = self.reader.rung
                on_change()
