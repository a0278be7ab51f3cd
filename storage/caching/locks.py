"""Locks on ranges of a file, between threads and processes alike; a dead holder's are free at once.

They are "open file description" locks of Linux: each holder opens the file for itself, so two threads of a process
exclude each other as two processes do.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from contextlib import suppress
from pathlib import Path

_LOCK = struct.Struct("hhqqi4x")
_PAUSE_FIRST_S, _PAUSE_MOST_S = 0.0005, 0.02
_held: set[RangeLock] = set()
_is_watching_forks = False


class RangeLock:
    """A lock on a range of a file's bytes, which need not exist.

    Args:
        shared: others may hold the same kind at once.
    """

    def __init__(self, path: Path, start: int = 0, length: int = 1, *, shared: bool = False) -> None:
        _watch_forks()
        self._range = start, length
        self._kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        _held.add(self)

    def acquire(self, patience_s: float = 0.0) -> bool:
        """Whether it is held now; False if somebody else has held it for all of that time."""
        pause_s, until = _PAUSE_FIRST_S, time.monotonic() + patience_s
        while not self._try():
            if time.monotonic() >= until:
                return False
            time.sleep(pause_s)
            pause_s = min(_PAUSE_MOST_S, pause_s * 1.5)
        return True

    def close(self) -> None:
        """Let go of it."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        _held.discard(self)
        # A child that was forked meanwhile has the same open file: to close it here would leave the lock to the child.
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _LOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, *self._range, 0))
        os.close(fd)

    def lose(self) -> None:
        """It is somebody else's: let go of it here without unlocking it."""
        fd, self._fd = self._fd, -1
        with suppress(OSError):  # another thread has closed it a moment ago
            os.close(fd)

    def _try(self) -> bool:
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _LOCK.pack(self._kind, os.SEEK_SET, *self._range, 0))
        except BlockingIOError:
            return False
        return True


def _watch_forks() -> None:
    global _is_watching_forks
    if not _is_watching_forks:
        _is_watching_forks = True
        os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    """The parent's locks are not the child's, and must not live as long as the child does."""
    for lock in _held:
        lock.lose()
    _held.clear()
