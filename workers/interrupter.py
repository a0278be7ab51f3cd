"""Stops a micro-batch in the middle when its lane, or a worker that leaves, can't wait for its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from .engines.protocol import Engine

LOOK_S = 0.002
"""How often the lane is looked at while a micro-batch runs. A look costs a few microseconds."""


@dataclass(slots=True)
class _Running:
    engine: Engine
    started: float
    expected_s: float
    told: bool = False


class Interrupter:
    """Looks on while micro-batches run, in a thread of its own; used as a context around a stripe's work.

    Args:
        bound_s: after `demand`, how long the micro-batch may take to end by itself.
        interrupt_at: told when the micro-batch started, how long it should take, and the time (monotonic seconds), says
            when to stop it; None: not.
    """

    def __init__(self, bound_s: float, interrupt_at: Callable[[float, float, float], float | None]) -> None:
        self._bound_s = bound_s
        self._interrupt_at = interrupt_at
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._demanded_at: float | None = None
        self._over = False
        self._begun = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._over = False
        self._begun.clear()
        self._thread = threading.Thread(target=self._look_on, name="interrupter", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over = True
        self._begun.set()

    @contextmanager
    def running(self, engine: Engine, expected_s: float) -> Generator[None]:
        """Around each micro-batch."""
        with self._lock:
            self._running = _Running(engine, time.monotonic(), expected_s)
        if not self._begun.is_set():
            self._begun.set()
        try:
            yield
        finally:
            with self._lock:
                self._running = None

    def demand(self) -> None:
        """The micro-batch that runs now, if any, has to end within the bound; from any thread."""
        with self._lock:
            self._demanded_at = time.monotonic()

    def _look_on(self) -> None:
        idle = 0
        while not self._over:
            if idle > 1:
                # Between micro-batches for a while: nothing to look at, so take no time from live traffic.
                self._begun.clear()
                if self._running is None:
                    self._begun.wait()
                idle = 0
            time.sleep(LOOK_S)
            with self._lock:
                running = self._running
                if running is None:
                    idle += 1
                    continue
                idle = 0
                if not running.told and self._is_due(running, time.monotonic()):
                    running.told = True
                    running.engine.interrupt()

    def _is_due(self, running: _Running, now: float) -> bool:
        if self._demanded_at is not None and now >= max(self._demanded_at, running.started) + self._bound_s:
            return True
        due = self._interrupt_at(running.started, running.expected_s, now)
        return due is not None and now >= due
