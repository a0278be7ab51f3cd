"""Stops a micro-batch in the middle when its lane, or a worker that leaves, can't wait for its end."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from .engines.protocol import Engine

LOOK_S = 0.01
"""How often the lane is looked at while a micro-batch runs, should nobody tell that it has changed."""


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
        self._sleeps = False
        self._told = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._over = False
        self._told.clear()
        self._thread = threading.Thread(target=self._look_on, name="interrupter", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over = True
        self._told.set()
        if self._thread is not None:
            self._thread.join()

    @contextmanager
    def running(self, engine: Engine, expected_s: float) -> Generator[None]:
        """Around each micro-batch."""
        with self._lock:
            self._running = _Running(engine, time.monotonic(), expected_s)
        if self._sleeps:
            self._told.set()
        try:
            yield
        finally:
            with self._lock:
                self._running = None

    def demand(self) -> None:
        """The micro-batch that runs now, if any, has to end within the bound; from any thread."""
        with self._lock:
            self._demanded_at = time.monotonic()

    def look(self) -> None:
        """The lane has changed; from any thread."""
        self._told.set()

    def _look_on(self) -> None:
        wait_s: float | None = LOOK_S
        while not self._over:
            self._sleeps = wait_s is None
            # Checked once more, in case it began just before that was said.
            self._told.wait(LOOK_S if self._sleeps and self._running is not None else wait_s)
            self._told.clear()
            self._sleeps = False
            wait_s = self._look()

    def _look(self) -> float | None:
        """Interrupt what is due; returns how long to sleep at most, None while nothing runs."""
        with self._lock:
            running = self._running
            if running is None:
                return None
            now = time.monotonic()
            if running.told:
                return LOOK_S
            due = self._due(running, now)
            if due > now:
                return min(LOOK_S, due - now)
            running.told = True
            running.engine.interrupt()
            return LOOK_S

    def _due(self, running: _Running, now: float) -> float:
        """When the micro-batch that runs is to be interrupted (monotonic seconds)."""
        demanded = math.inf
        if self._demanded_at is not None:
            demanded = max(self._demanded_at, running.started) + self._bound_s
        due = self._interrupt_at(running.started, running.expected_s, now)
        return demanded if due is None else min(demanded, due)
