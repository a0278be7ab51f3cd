"""Memory for parts, used again and again: the first write to fresh memory costs seven times a copy.

Where the system has them, huge pages make even the first use cheap: 4 faults for a part of 8 MiB instead of 2,048.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections import defaultdict

from .heap import fresh

_ROUND = 256 * 1024
_SURE_BYTES = 64 * 2**20


class Buffers:
    """Buffers of all open files of this process, within one budget. Thread-safe.

    Who reads can do without a buffer and gets none when they run short. Who writes can't, and waits; so a part of the
    budget is never given to reads, or a program that copies would wait for itself.

    Args:
        most_bytes: what all of them, in use or kept, may take.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._for_reads = most_bytes - min(most_bytes // 2, max(most_bytes // 4, _SURE_BYTES))
        self._lock = threading.Condition()
        self._idle: defaultdict[int, list[mmap.mmap]] = defaultdict(list)
        self._taken_bytes = 0
        self._idle_bytes = 0

    @property
    def taken_bytes(self) -> int:
        """What is in use now."""
        return self._taken_bytes

    def take(self, length: int) -> mmap.mmap | None:
        """A buffer of at least so many bytes, to read into; None when the budget does not allow it."""
        with self._lock:
            found, size = self._find(length, self._for_reads)
        return found or (fresh(size) if size else None)

    def take_to_write(self, length: int, patience_s: float) -> mmap.mmap | None:
        """A buffer of at least so many bytes, waited for; None once nothing was given back for so long."""
        with self._lock:
            while True:
                found, size = self._find(length, self.most_bytes)
                if size:
                    break
                if patience_s <= 0 or not self._lock.wait(patience_s):
                    return None
        return found or fresh(size)

    def admit(self, length: int) -> bool:
        """Whether so many bytes that are kept elsewhere fit into the budget; they count until `dismiss`."""
        return self._admit(length, self.most_bytes)

    def dismiss(self, length: int) -> None:
        """Bytes that were admitted are not kept any more."""
        with self._lock:
            self._taken_bytes -= length
            self._lock.notify_all()

    def admit_read(self, length: int) -> bool:
        """As `admit`, of what is fetched ahead, to which part of the budget is never given."""
        return self._admit(length, self._for_reads)

    def give_back(self, buffer: mmap.mmap) -> None:
        """Nobody looks at it any more."""
        with self._lock:
            self._idle[len(buffer)].append(buffer)
            self._idle_bytes += len(buffer)
            self._taken_bytes -= len(buffer)
            self._lock.notify_all()

    def _admit(self, length: int, most_bytes: int) -> bool:
        with self._lock:
            if self._taken_bytes + length > most_bytes:
                return False
            self._taken_bytes += length
            self._drop_idle(self._taken_bytes + self._idle_bytes - self.most_bytes)
            return True

    def _find(self, length: int, most_bytes: int) -> tuple[mmap.mmap | None, int]:
        """One that was kept, or None and the size of a fresh one, which counts from now on; 0: there is no room."""
        size = -(-length // _ROUND) * _ROUND
        if self._taken_bytes + size > most_bytes:
            return None, 0
        self._taken_bytes += size
        if self._idle[size]:
            self._idle_bytes -= size
            return self._idle[size].pop(), size
        self._drop_idle(self._taken_bytes + self._idle_bytes - self.most_bytes)
        return None, size

    def _drop_idle(self, excess: int) -> None:
        for size in sorted(self._idle, reverse=True):
            while excess > 0 and self._idle[size]:
                self._idle[size].pop()
                self._idle_bytes -= size
                excess -= size


_of_process: dict[int, Buffers] = {}


def buffers_of_process(most_bytes: int) -> Buffers:
    """The one budget of this process, of the size that was asked for first."""
    found = _of_process.get(os.getpid())
    if found is None:
        _of_process.clear()
        found = _of_process[os.getpid()] = Buffers(most_bytes)
    return found
