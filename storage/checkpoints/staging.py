"""Memory that a state is copied into, so that training goes on while it is uploaded from there."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Sequence

from ..pages import POPULATE, advise
from .state import StateFile
from .tensors import Tensor, address_of, copy_into

_CHUNK_BYTES = 8 * 2**20
_THREADS_MOST = 8
_PAGE = 4096


class Area:
    """Memory for one state at a time, kept from save to save.

    Fresh memory takes several times as long to copy to as memory that was used before, so it only ever grows.
    """

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        self._pid = os.getpid()

    @property
    def size_bytes(self) -> int:
        return len(self._memory) if self._memory is not None else 0

    def prepare(self, size_bytes: int) -> bool:
        """See to it that so many bytes are there; returns whether they are new, and their pages not made yet."""
        if self._pid != os.getpid():  # a forked child writes to memory of its own
            self._memory, self._pid = None, os.getpid()
        is_new = size_bytes > self.size_bytes
        if is_new:
            self._memory = None  # before the larger one, so that they do not add up
            # Huge pages are not asked for: where memory is in pieces the first save took three times as long for them,
            # and the others no less.
            self._memory = mmap.mmap(-1, -(-size_bytes // _PAGE) * _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return is_new

    def stage(self, files: Sequence[StateFile], *, neighbours: int = 1) -> list[memoryview]:
        """Copy the files' content here; returns each file's bytes, valid until the next time.

        Args:
            neighbours: how many processes of this machine do the same now; they share its cores.
        """
        is_new = self.prepare(sum(file.size_bytes + _PAGE for file in files))
        if self._memory is None:
            return [memoryview(file.head) for file in files]
        memory = memoryview(self._memory)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        places: list[memoryview] = []
        moves: list[tuple[int, int, int]] = []
        others: list[tuple[Tensor, memoryview]] = []
        kept: list[object] = []
        at = 0
        for file in files:
            end = at + len(file.head)
            memory[at:end] = file.head
            for tensor in file.tensors:
                begin, end = end, end + tensor.size_bytes
                found = address_of(tensor) if tensor.size_bytes else None
                if found is not None:
                    kept.append(found[1])
                    moves += [
                        (base + begin + done, found[0] + done, min(_CHUNK_BYTES, tensor.size_bytes - done))
                        for done in range(0, tensor.size_bytes, _CHUNK_BYTES)
                    ]
                elif tensor.size_bytes:
                    others.append((tensor, memory[begin:end]))
            places.append(memory[at:end])
            at = -(-end // _PAGE) * _PAGE
        _copy(moves, neighbours, populate=is_new)
        for tensor, place in others:
            copy_into(tensor, place)
        return places


def _copy(moves: Sequence[tuple[int, int, int]], neighbours: int, *, populate: bool) -> None:
    """Move memory; other threads of this process go on meanwhile.

    Args:
        populate: the pages moved to are not there yet. Made a chunk at a time, just before it is written, they took
            four processes on two cores 0.53 s for 512 MiB each instead of 0.75.
    """
    size_bytes = sum(size for _, _, size in moves)
    cores = len(os.sched_getaffinity(0)) // neighbours
    threads = min(_THREADS_MOST, cores, size_bytes // (2 * _CHUNK_BYTES))
    waiting = iter(moves)
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                move = next(waiting, None)
            if move is None:
                return
            if populate:
                to, _, size = move
                advise(range(to // _PAGE * _PAGE, to + size), POPULATE)  # only a wish
            ctypes.memmove(*move)

    helping = [threading.Thread(target=work, name="checkpoint copy") for _ in range(threads - 1)]
    for thread in helping:
        thread.start()
    work()
    for thread in helping:
        thread.join()
