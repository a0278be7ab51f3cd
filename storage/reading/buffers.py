"""Memory for parts, used again and again: the first write to fresh memory costs seven times a copy.

Where the system has them, huge pages make even the first use cheap: 4 faults for a part of 8 MiB instead of 2,048.
"""

from __future__ import annotations

import io
import mmap
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress

_ROUND = 256 * 1024
_HUGE = 2 * 2**20


class Buffers:
    """Buffers of all open files of this process, within one budget. Thread-safe.

    Args:
        most_bytes: what all of them, in use or kept, may take.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._lock = threading.Lock()
        self._idle: defaultdict[int, list[mmap.mmap]] = defaultdict(list)
        self._taken_bytes = 0
        self._idle_bytes = 0

    @property
    def taken_bytes(self) -> int:
        """What is in use now."""
        return self._taken_bytes

    def take(self, length: int) -> mmap.mmap | None:
        """A buffer of at least so many bytes; None when the budget does not allow it."""
        size = -(-length // _ROUND) * _ROUND
        with self._lock:
            if self._idle[size]:
                found = self._idle[size].pop()
                self._idle_bytes -= size
                self._taken_bytes += size
                return found
            if self._taken_bytes + size > self.most_bytes:
                return None
            self._drop_idle(self._taken_bytes + self._idle_bytes + size - self.most_bytes)
            self._taken_bytes += size
        return _fresh(size)

    def admit(self, length: int) -> bool:
        """Whether so many bytes that are kept elsewhere fit into the budget; they count until `dismiss`."""
        with self._lock:
            if self._taken_bytes + length > self.most_bytes:
                return False
            self._drop_idle(self._taken_bytes + self._idle_bytes + length - self.most_bytes)
            self._taken_bytes += length
            return True

    def dismiss(self, length: int) -> None:
        """Bytes that were admitted are not kept any more."""
        with self._lock:
            self._taken_bytes -= length

    def give_back(self, buffer: mmap.mmap) -> None:
        """Nobody looks at it any more."""
        with self._lock:
            self._idle[len(buffer)].append(buffer)
            self._idle_bytes += len(buffer)
            self._taken_bytes -= len(buffer)

    def _drop_idle(self, excess: int) -> None:
        for size in sorted(self._idle, reverse=True):
            while excess > 0 and self._idle[size]:
                self._idle[size].pop()
                self._idle_bytes -= size
                excess -= size


def _fresh(size: int) -> mmap.mmap:
    found = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= _HUGE:
        with suppress(OSError, AttributeError):  # only a wish
            found.madvise(mmap.MADV_HUGEPAGE)
    return found


def filled(length: int, fill: Callable[[memoryview], None]) -> bytes:
    """Bytes that are made where they stay: `fill` writes them, and no copy is taken."""
    # BytesIO lets its bytes be written as long as nobody else has them, and hands them out as they are.
    whole = io.BytesIO(bytes(length))
    with whole.getbuffer() as view:
        fill(view)
    return whole.getvalue()
