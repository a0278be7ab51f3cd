"""`holdshort up`: a worker process per pool, the controller, and the folder triggers, until told to stop."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType

from ..jobs.controller import Controller
from ..jobs.settings import Settings
from ..jobs.triggers.folder import FolderTrigger
from .serve import GRACE_S

log = logging.getLogger(__name__)

_PAUSE_FIRST_S, _PAUSE_MOST_S = 0.2, 30.0
_SETTLED_S = 30.0
"""A worker that lived so long has started well: its next restart is at once."""


@dataclass(slots=True)
class _Child:
    pool: str
    process: subprocess.Popen[bytes]
    started: float
    pause: float = _PAUSE_FIRST_S
    restart_at: float | None = None
    restarts: int = field(default=0)


class Supervisor:
    """Keeps workers alive and everything else running.

    Args:
        command: how to start a worker of a pool; it has to end when its standard input closes, so that none
            outlives us.
    """

    def __init__(self, settings: Settings, *, command: Callable[[str], Sequence[str]] | None = None) -> None:
        self.settings = settings
        self._command = command or _worker_command
        self._stop = threading.Event()
        self._signals = 0
        self._children: dict[str, _Child] = {}

    def run(self, *, ready: Callable[[], None] | None = None) -> int:
        """Run until SIGTERM or SIGINT; then let workers park and leave. A second SIGINT kills them."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        controller = Controller(self.settings)
        threads = [threading.Thread(target=controller.run, args=(self._stop,), name="controller")]
        for watch in self.settings.watch:
            trigger = FolderTrigger(self.settings, watch.folder, watch.pool)
            threads.append(threading.Thread(target=trigger.run, args=(self._stop,), name=f"watch-{watch.folder}"))
        for thread in threads:
            thread.start()
        try:
            for pool in self.settings.pools:
                self._children[pool] = self._start(pool)
            if ready is not None:
                ready()
            while not self._stop.wait(0.2):
                for child in self._children.values():
                    self._tend(child)
        finally:
            self._stop.set()
            self._drain()
            for thread in threads:
                thread.join()
        return 0

    def worker_pid(self, pool: str) -> int:
        """Process id of a pool's worker."""
        return self._children[pool].process.pid

    def stop(self) -> None:
        """Leave, as after SIGTERM; from any thread."""
        self._stop.set()

    # -- inside ------------------------------------------------------------------------------------------

    def _start(self, pool: str) -> _Child:
        process = subprocess.Popen(  # noqa: S603 - our own command
            list(self._command(pool)),
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches us alone, and we tell them
        )
        log.info("worker of pool %s: process %d", pool, process.pid)
        return _Child(pool, process, time.monotonic())

    def _tend(self, child: _Child) -> None:
        now = time.monotonic()
        if child.restart_at is not None:
            if now >= child.restart_at:
                fresh = self._start(child.pool)
                fresh.pause, fresh.restarts = child.pause, child.restarts + 1
                self._children[child.pool] = fresh
            return
        status = child.process.poll()
        if status is None:
            return
        if now - child.started >= _SETTLED_S:
            child.pause = _PAUSE_FIRST_S
        log.warning(
            "the worker of pool %s ended (%s); a new one starts in %.1f s",
            child.pool,
            _said(status),
            child.pause,
        )
        child.restart_at = now + child.pause
        child.pause = min(_PAUSE_MOST_S, child.pause * 2)

    def _drain(self) -> None:
        running = [child.process for child in self._children.values() if child.process.poll() is None]
        for process in running:
            process.terminate()
        end = time.monotonic() + GRACE_S + 5
        for process in running:
            try:
                while process.poll() is None and time.monotonic() < end and self._signals < 2:
                    try:
                        process.wait(timeout=0.2)
                    except subprocess.TimeoutExpired:
                        continue
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        self._stop.set()


def _worker_command(pool: str) -> Sequence[str]:
    return (sys.executable, "-m", "holdshort.cli", "worker", pool, "--with-parent")


def _said(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
