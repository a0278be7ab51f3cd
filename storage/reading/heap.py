"""Memory to read into, on huge pages where the system has some, since the first use of small ones takes long.

On a virtual machine with two cores, reading 1 GiB by 1 MiB took 0.62 s by huge pages, and 0.71 by small ones.

A buffer of our own is easily put there, and so is a large bytes object. Where the allocator puts smaller ones a program
can't say. But glibc's hands out what it was given back: so a large block is asked for, its pages are marked, and it is
given back; the bytes that are made then lie there. Marking them later is too late, since the allocator has written next
to each by then, and a page that is there is not made larger. Other allocators give small pages, and nothing breaks.
The price is that glibc keeps up to twice a block at the end of each heap from then on, for whoever asks next.
"""

from __future__ import annotations

import io
import mmap
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial

from ..pages import HUGE_BYTES, POPULATE, advise

Each = Callable[[Sequence[Callable[[], int]]], None]
"""Runs tasks at once, and returns when all have ended; see fetching.Fetcher."""

_BLOCK_BYTES = 31 * 2**20
"""A little less than the largest that glibc keeps for the next who asks (DEFAULT_MMAP_THRESHOLD_MAX, 32 MiB); what is
larger always goes back to the system."""
_MORE_BYTES = 256 * 1024


class Unread:
    """Bytes that are being made where they will stay.

    Attributes:
        memory: where to write them to.
    """

    __slots__ = ("_whole", "memory")

    def __init__(self, length: int) -> None:
        self._whole = io.BytesIO(_unwritten()(None, length))
        self.memory = self._whole.getbuffer()

    def read(self) -> bytes:
        """The bytes; nobody may write to them any more."""
        self.memory.release()
        return self._whole.getvalue()


class _Ready(threading.local):
    """What a thread has marked and not used yet. Each has its own: so does glibc, up to a number of threads."""

    left_bytes = 0
    has_begun = False
    chances = 2
    """After so many blocks that went back to the system, there is an allocator of another kind."""


_ready = _Ready()


def unread(lengths: Sequence[int], upto_bytes: int, each: Each) -> list[Unread]:
    """Bytes of such lengths, to be written to. Raises MemoryError.

    Args:
        upto_bytes: so much is asked for at once, in all; these are the first of it.
        each: makes pages by several cores.
    """
    found: list[Unread] = []
    for length in lengths:
        if length < _BLOCK_BYTES:
            with suppress(MemoryError, RuntimeError):  # only a wish: what it takes, memory or a thread, may be short
                _get_ready(length, upto_bytes, each)
        found.append(Unread(length))
        if length >= _BLOCK_BYTES:
            _on_huge_pages(found[-1].memory)
        upto_bytes -= length
    return found


def _get_ready(size: int, upto_bytes: int, each: Each) -> None:
    ready = _ready
    if ready.left_bytes < size and upto_bytes >= 2 * HUGE_BYTES and ready.chances:
        if not ready.has_begun:
            # What is given back for the first time goes to the system; from then on as much is kept.
            Unread(_BLOCK_BYTES + _MORE_BYTES)
            ready.has_begun = True
        ready.left_bytes = min(_BLOCK_BYTES, upto_bytes + _MORE_BYTES)
        block = Unread(ready.left_bytes)
        marked = _on_huge_pages(block.memory)
        _populate(marked, each)
        del block
        if not _are_there(marked):
            ready.left_bytes = 0
            ready.chances -= 1
    ready.left_bytes = max(0, ready.left_bytes - size)


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
    if size >= HUGE_BYTES:
        with suppress(OSError, AttributeError):  # only a wish
            found.madvise(mmap.MADV_HUGEPAGE)
    return found


def filled(length: int, fill: Callable[[memoryview], None]) -> bytes:
    """Bytes that are made where they stay: `fill` writes all of them, and no copy is taken."""
    # BytesIO lets its bytes be written as long as nobody else has them, and hands them out as they are. bytes(length)
    # would write zeros first, which takes a quarter of what reading them from the page cache does.
    whole = io.BytesIO(_unwritten()(None, length))
    with whole.getbuffer() as view:
        if length >= 2 * HUGE_BYTES:
            _on_huge_pages(view)
        fill(view)
    return whole.getvalue()


def _populate(addresses: range, each: Each) -> None:
    """Make pages, while other threads go on: who makes them by writing has the interpreter meanwhile."""

    def make(pages: range) -> int:
        advise(pages, POPULATE)  # only a wish
        return 0

    middle = addresses.start + len(addresses) // 2 // HUGE_BYTES * HUGE_BYTES
    each([partial(make, range(addresses.start, middle)), partial(make, range(middle, addresses.stop))])


def _on_huge_pages(memory: memoryview) -> range:
    """Ask the system for huge pages under memory that is about to be written, only a wish; returns which addresses.

    Of 32 MB on fresh memory, the copy takes 5 ms instead of 20 then, and on memory that was used before 3 instead of 4.
    """
    import ctypes

    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return range(0)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    # None of anybody else.
    found = range(-(-begin // HUGE_BYTES) * HUGE_BYTES, (begin + len(memory)) // HUGE_BYTES * HUGE_BYTES)
    advise(found, mmap.MADV_HUGEPAGE)
    return found


def _are_there(addresses: range) -> bool:
    """Whether all of them are this process's memory; advice on others is refused."""
    return advise(addresses, mmap.MADV_NORMAL)
