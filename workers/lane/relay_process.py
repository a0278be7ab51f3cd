"""A worker's relay: a process of its own, kept alive as long as the worker lives."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time

from ...jobs.settings import Settings
from ...storage.errors import LaneError
from .relay import relay_is_there

log = logging.getLogger(__name__)

_COMMAND = (sys.executable, "-m", "holdshort.cli", "lane-relay", "--with-parent")
_PAUSE_FIRST_S, _PAUSE_MOST_S = 0.2, 5.0
_SETTLED_S = 30.0
_LEAVE_S = 5.0


class RelayProcess:
    """Starts a relay, and another one whenever it ends. Of several on a host one works, the others wait for its death.

    It ends when this process does, however that ends. While there is none, workers on this host hold.

    Args:
        settings: which pools have to be covered; the process reads its own, from the environment like ours.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def start(self) -> None:
        """Start it, and go on without waiting for it."""
        self._thread.start()

    def wait(self, *, timeout_s: float = 30.0) -> None:
        """Wait until some relay of this host has said so on every pool: before that nothing may be consumed.

        Raises LaneError if none did in time.
        """
        end = time.monotonic() + timeout_s
        while not relay_is_there(self._settings):
            if time.monotonic() >= end:
                raise LaneError(
                    f"No lane relay has started within {timeout_s:.0f} s, so the lanes of other hosts are not known; "
                    f"its own messages say why. With lane_fanout = false, lane signals stay on their host."
                )
            time.sleep(0.02)

    def stop(self) -> None:
        """Let it leave, once nothing is consumed any longer. Workers see no hold of other hosts from now on."""
        self._stop.set()
        process = self._process
        if process is not None and process.poll() is None:
            _let_go(process)
            try:
                process.wait(timeout=_LEAVE_S)
            except subprocess.TimeoutExpired:
                process.kill()
        if self._thread.is_alive():
            self._thread.join(timeout=_LEAVE_S)

    # -- inside ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause_s = _PAUSE_FIRST_S
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                status = self._once()
            except OSError as error:
                log.error("no lane relay can be started: %s; trying again in %.1f s", error, pause_s)  # noqa: TRY400
            else:
                if self._stop.is_set():
                    return
                if time.monotonic() - started >= _SETTLED_S:
                    pause_s = _PAUSE_FIRST_S
                log.warning("the lane relay ended (%s); a new one starts in %.1f s", _said(status), pause_s)
            self._stop.wait(pause_s)
            pause_s = min(_PAUSE_MOST_S, pause_s * 2)

    def _once(self) -> int:
        # Ctrl-C is for the worker alone, which then stops its relay.
        with subprocess.Popen(_COMMAND, stdin=subprocess.PIPE, start_new_session=True) as process:  # noqa: S603
            self._process = process
            if self._stop.is_set():
                _let_go(process)
            return process.wait()


def _let_go(process: subprocess.Popen[bytes]) -> None:
    """Close its standard input: the only way to end it in peace."""
    if process.stdin is not None:
        process.stdin.close()


def _said(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
