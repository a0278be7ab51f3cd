"""`holdshort up`: worker processes, the gateway, the controller and the folder triggers, until told to stop."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType

from ..jobs.controller import Controller
from ..jobs.settings import Settings
from ..jobs.triggers.folder import FolderTrigger
from ..storage.errors import LaneError
from .lane.place import LanePlace
from .lane.reader import LaneReader
from .lane.reading import is_quiet
from .serve import GRACE_S

log = logging.getLogger(__name__)

_PAUSE_FIRST_S, _PAUSE_MOST_S = 0.2, 30.0
_SETTLED_S = 30.0
"""A worker that lived so long has started well: its next restart is at once."""
_BUSY_MOST_S = 10.0
"""A process that starts takes a core for a second or two, so it waits for a quiet moment; but not longer than this, or
nobody would see that there is a worker."""


@dataclass(slots=True)
class _Child:
    what: str
    command: Sequence[str]
    pool: str
    process: subprocess.Popen[bytes]
    started: float
    pause: float = _PAUSE_FIRST_S
    restart_at: float | None = None


class Supervisor:
    """Keeps workers (one for each pool, or for each of its devices) and the gateway alive, and the rest running."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._stop = threading.Event()
        self._signals = 0
        self._children: list[_Child] = []
        self._lanes: dict[str, LaneReader] = {}

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
            self._children = [self._start(*part) for part in _parts(self.settings)]
            if ready is not None:
                ready()
            while not self._stop.wait(0.2):
                self._children = [self._tend(child) for child in self._children]
        finally:
            self._stop.set()
            self._drain()
            for thread in threads:
                thread.join()
        return 0

    def stop(self) -> None:
        """Leave, as after SIGTERM; from any thread."""
        self._stop.set()

    # -- inside ------------------------------------------------------------------------------------------

    def _start(self, what: str, command: Sequence[str], pool: str) -> _Child:
        process = subprocess.Popen(  # noqa: S603 - our own command
            list(command),
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches us alone, and we tell them
        )
        log.info("%s: process %d", what, process.pid)
        return _Child(what, command, pool, process, time.monotonic())

    def _tend(self, child: _Child) -> _Child:
        """The child, or the one that takes its place."""
        now = time.monotonic()
        if child.restart_at is not None:
            if now < child.restart_at or (now < child.restart_at + _BUSY_MOST_S and self._is_busy(child.pool)):
                return child
            fresh = self._start(child.what, child.command, child.pool)
            fresh.pause = child.pause
            return fresh
        status = child.process.poll()
        if status is None:
            return child
        if now - child.started >= _SETTLED_S:
            child.pause = _PAUSE_FIRST_S
        log.warning("the %s ended (%s); a new one starts in %.1f s", child.what, _said(status), child.pause)
        child.restart_at = now + child.pause
        child.pause = min(_PAUSE_MOST_S, child.pause * 2)
        return child

    def _is_busy(self, pool: str) -> bool:
        """Whether live traffic holds a worker's pool, or has held it a moment ago."""
        if not pool:
            return False
        try:
            if pool not in self._lanes:
                timeout_s = self.settings.pool(pool).signal_loss_timeout_s
                place = LanePlace.of(self.settings)
                self._lanes[pool] = LaneReader(place, pool, signal_loss_timeout_s=timeout_s, on_lost=lambda name: None)
        except LaneError as error:
            log.warning("a worker starts without a look at the lane: %s", error)
            return False
        return not is_quiet(self._lanes[pool].reading(), time.monotonic())

    def _drain(self) -> None:
        running = [child.process for child in self._children if child.process.poll() is None]
        for process in running:
            process.terminate()
        gateway = self.settings.gateway
        end = time.monotonic() + max(GRACE_S, gateway.drain_timeout_s if gateway else 0.0) + 5
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


def _parts(settings: Settings) -> Iterator[tuple[str, Sequence[str], str]]:
    """What runs in a process of its own, how it is started, and for which pool it works ("" for none).

    Each ends when its standard input closes.
    """
    holdshort = (sys.executable, "-m", "holdshort.cli")
    for name, pool in settings.pools.items():
        if not pool.devices:
            yield f"worker of pool {name}", (*holdshort, "worker", name, "--with-parent"), name
        for place, device in enumerate(pool.devices):
            metrics = ("--metrics", _next_port(pool.metrics, place)) if pool.metrics else ()
            command = (*holdshort, "worker", name, "--device", device, *metrics, "--with-parent")
            yield f"worker of pool {name} for device {device}", command, name
    if settings.gateway is not None and settings.gateway.upstream:
        yield "gateway", (*holdshort, "gateway", "--with-parent"), ""


def _next_port(address: str, place: int) -> str:
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + place}"


def _said(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
