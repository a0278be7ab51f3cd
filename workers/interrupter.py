"""Stops a micro-batch that is still running a while after it should have ended."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager

from .engines.protocol import Engine


class Interrupter:
    """Lets a running micro-batch end by itself within the yield bound, and interrupts it then."""

    def __init__(self, bound_s: float) -> None:
        self._bound_s = bound_s
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._number = 0

    @contextmanager
    def running(self, engine: Engine) -> Generator[None]:
        """Around each micro-batch."""
        with self._lock:
            self._engine = engine
            self._number += 1
        try:
            yield
        finally:
            with self._lock:
                self._engine = None

    def demand(self) -> None:
        """The micro-batch that runs now, if any, has to end within the bound."""
        with self._lock:
            if self._engine is None:
                return
            timer = threading.Timer(self._bound_s, self._interrupt, (self._number,))
        timer.daemon = True
        timer.start()

    def _interrupt(self, number: int) -> None:
        with self._lock:
            if self._engine is not None and self._number == number:
                self._engine.interrupt()
