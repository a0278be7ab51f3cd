"""A worker's flight recorder: each micro-batch and each hold as a JSON line, to look at later.

Times are monotonic seconds of the host (`time.monotonic`), so lines of several processes of a host fit together. The
first line says which wall-clock time that is.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import orjson

from ..storage.errors import SettingsError
from .observer import Observer


class Trace(Observer):
    """Writes to a file of this process in a folder; what is still in memory is written every tenth of a second.

    Args:
        folder: made if it is not there.
        pool: part of the file's name, `<pool>-<pid>.jsonl`.

    Raises:
        SettingsError: the file can't be made.
    """

    def __init__(self, folder: Path, pool: str) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / f"{pool}-{os.getpid()}.jsonl").open("ab")
        except OSError as error:
            raise SettingsError(f"trace_folder {folder} can't be used: {error.strerror or error}.") from error
        self._lines: list[bytes] = []
        self._over = threading.Event()
        self._tell("started", pool=pool, pid=os.getpid(), epoch_s=time.time())
        threading.Thread(target=self._write, name="trace", daemon=True).start()

    def ran(self, *, units: int, cost: int, seconds: float) -> None:
        self._tell("ran", seconds=seconds, units=units, cost=cost)

    def lost(self, *, rows: int, seconds: float) -> None:
        self._tell("lost", seconds=seconds, rows=rows)

    def yielded(self, *, raised: float, seen: float, still: float) -> None:
        self._tell("yielded", raised=raised, seen=seen, still=still)

    def waited(self, *, seconds: float, reason: str) -> None:
        self._tell("waited", seconds=seconds, reason=reason)

    def finished(self, *, rows: int) -> None:
        self._tell("finished", rows=rows)

    def left(self, *, action: str, why: str) -> None:
        self._tell("left", action=action, why=why)

    def close(self) -> None:
        """Write the rest."""
        self._over.set()
        self._flush()

    def _tell(self, event: str, **what: Any) -> None:
        self._lines.append(orjson.dumps({"at": time.monotonic(), "event": event, **what}) + b"\n")

    def _write(self) -> None:
        while not self._over.wait(0.1):
            self._flush()

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            self._file.write(b"".join(lines))
            self._file.flush()
