"""Memory for parts, used again and again: the first write to fresh memory costs seven times a copy.

Where the system has them, huge pages make even the first use cheap: 4 faults for a part of 8 MiB instead of 2,048.
"""

from __future__ import annotations

import io
import mmap
import os
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from functools import cache

_ROUND = 256 * 1024
_HUGE = 2 * 2**20
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
            self._lock.notify_all()

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


@cache
def _unwritten() -> Callable[[None, int], bytes]:
    """PyBytes_FromStringAndSize(NULL, length): bytes "the contents of which are uninitialized", says Python's C API."""
    import ctypes

    make = ctypes.pythonapi.PyBytes_FromStringAndSize
    make.restype, make.argtypes = ctypes.py_object, (ctypes.c_char_p, ctypes.c_ssize_t)
    return make


def fresh(size: int) -> mmap.mmap:
    """Memory of zeros, on huge pages where there are some."""
    found = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= _HUGE:
        with suppress(OSError, AttributeError):  # only a wish
            found.madvise(mmap.MADV_HUGEPAGE)
    return found


def filled(length: int, fill: Callable[[memoryview], None]) -> bytes:
    """Bytes that are made where they stay: `fill` writes all of them, and no copy is taken."""
    # BytesIO lets its bytes be written as long as nobody else has them, and hands them out as they are. bytes(length)
    # would write zeros first, which takes a quarter of what reading them from the page cache does.
    whole = io.BytesIO(_unwritten()(None, length))
    with whole.getbuffer() as view:
        if length >= 2 * _HUGE:
            _on_huge_pages(view)
        fill(view)
    return whole.getvalue()


def _on_huge_pages(memory: memoryview) -> None:
    """Ask the system for huge pages under memory that is about to be written; only a wish.

    Of 32 MB on fresh memory, the copy takes 5 ms instead of 20 then, and on memory that was used before 3 instead of 4.
    """
    import ctypes

    advise = _madvise()
    if advise is not None:
        begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        first, last = -(-begin // _HUGE) * _HUGE, (begin + len(memory)) // _HUGE * _HUGE  # none of anybody else
        advise(first, last - first, mmap.MADV_HUGEPAGE)


@cache
def _madvise() -> Callable[[int, int, int], int] | None:
    """The system's call, for memory that isn't an mmap object of Python's; None where there is none."""
    import ctypes

    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    found = ctypes.CDLL(None).madvise
    found.restype, found.argtypes = ctypes.c_int, (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return found
