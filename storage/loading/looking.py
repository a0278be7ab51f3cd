"""Which blocks of an object's memory are right: what is here of it can be looked at while its store is asked."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from ..caching.cached import CachedObject
from ..caching.layout import BLOCK_BYTES
from ..reading.ranges import parts

_LOOKERS, _LOOKED_BLOCKS = 4, 32 * 2**20 // BLOCK_BYTES
"""Threads that compare blocks with their sums, which needs no lock of the interpreter, and how many at a time."""

Run = tuple[int, int]
"""Blocks from the first to before the second."""


class Sound:
    """Blocks that are known to be right, of an object with so many. Any thread may mark them."""

    def __init__(self, blocks: int, *, are_all: bool = False) -> None:
        self._marks = bytearray(b"\1" if are_all else b"\0") * blocks

    def mark(self, first: int, last: int) -> None:
        """Blocks from `first` to before `last` are right."""
        self._marks[first:last] = b"\1" * (last - first)

    def runs(self, first: int, last: int) -> list[Run]:
        """Those from `first` to before `last` that are not known to be right."""
        found: list[Run] = []
        at = self._marks.find(0, first, last)
        while at >= 0:
            end = self._marks.find(1, at, last)
            end = last if end < 0 else end
            found.append((at, end))
            at = self._marks.find(0, end, last)
        return found

    def look(self, cached: CachedObject, memory: memoryview, runs: Sequence[Run]) -> list[Run]:
        """Compare blocks with what the cache says that they sum up to; returns those that are not there, or wrong.

        Args:
            memory: the object's, mapped from the cache's file.
        """
        pieces = _pieces(runs)
        if len(pieces) <= 1:
            return [run for piece in pieces for run in self._look(cached, memory, piece)]
        with ThreadPoolExecutor(_LOOKERS, thread_name_prefix="holdshort-verify") as pool:
            return [run for found in pool.map(partial(self._look, cached, memory), pieces) for run in found]

    def _look(self, cached: CachedObject, memory: memoryview, piece: Run) -> list[Run]:
        first, last = piece
        wrong = set(cached.unsound(first, last, memory))
        begin = first
        for block in sorted(wrong):
            self.mark(begin, block)
            begin = block + 1
        self.mark(begin, last)
        return self.runs(first, last) if wrong else []


class Look:
    """What was found of an object whose content was not known yet to be the one that its store has.

    Attributes:
        cached: the content that is here.
        memory: its bytes.
        sound: which of its blocks are right, once nobody looks any more.
    """

    def __init__(self, cached: CachedObject) -> None:
        self.cached = cached
        self.memory = cached.unpinned()
        self.sound = Sound(cached.subject.blocks)


@contextmanager
def looking(cached: CachedObject | None) -> Generator[Look | None]:
    """Look at all of an object that is here, in the background, for as long as the block runs; None if nothing is.

    It keeps nobody from removing the object.
    """
    look = None if cached is None else _begun(cached)
    if look is None:
        yield None
        return
    is_over = threading.Event()
    view = memoryview(look.memory)

    def one(piece: Run) -> None:
        # What fails here is looked at again by whoever wants it, and fails there.
        if not is_over.is_set():
            look.sound.look(look.cached, view, [piece])

    # Not more than run at once: the request that is being made has to come by.
    lookers = min(_LOOKERS, len(os.sched_getaffinity(0)))
    pool = ThreadPoolExecutor(lookers, thread_name_prefix="holdshort-verify")
    try:
        for piece in _pieces([(0, look.cached.subject.blocks)]):
            pool.submit(one, piece)
        yield look
    finally:
        is_over.set()
        pool.shutdown(cancel_futures=True)
        view.release()


def _begun(cached: CachedObject) -> Look | None:
    try:
        return Look(cached)
    except OSError:  # nor can whoever wants it map it, who says so
        return None


def _pieces(runs: Sequence[Run]) -> list[Run]:
    return [piece for first, last in runs for piece in parts(first, last, _LOOKED_BLOCKS)]
