"""A source's memory map: one process writes it, any number read it, and nobody waits for anybody."""

from __future__ import annotations

import mmap
from collections.abc import MutableSequence
from typing import Protocol

from .record import DISMISSED_AT, SEQUENCE_AT, SIZE, Word, pack_word, slot_of, unpack_word

_TRIES = 100
_CAUTIOUS_TRIES = 10


class Bytes(Protocol):
    """What a page needs of a memory: reading and writing slices."""

    def __getitem__(self, where: slice, /) -> bytes: ...
    def __setitem__(self, where: slice, content: bytes, /) -> None: ...


class Page:
    """A map's words.

    Args:
        memory: the whole map.
        words: the same memory as unsigned numbers of 8 bytes, each read and written in one go.
    """

    def __init__(self, memory: Bytes, words: MutableSequence[int] | memoryview[int]) -> None:
        self._memory = memory
        self._words = words

    @property
    def sequence(self) -> int:
        """Changes with every word, and every beat. Reading it costs about 40 ns and no system call."""
        return self._words[SEQUENCE_AT // 8]

    @property
    def dismissed(self) -> int:
        """The sequence number at which an operator dismissed the source; 0: never."""
        return self._words[DISMISSED_AT // 8]

    def write(self, word: Word) -> int:
        """Say something; returns its sequence number. One writer at a time."""
        sequence = self.sequence + 1
        self._memory[slot_of(sequence)] = pack_word(word, sequence)
        self._words[SEQUENCE_AT // 8] = sequence
        return sequence

    def read(self) -> tuple[int, Word | None]:
        """The latest word and its number; no word (None) before the first one, or if the map is damaged."""
        sequence = 0
        for tried in range(_TRIES):
            sequence = self.sequence
            if sequence == 0:
                return 0, None
            word = unpack_word(bytes(self._memory[slot_of(sequence)]), sequence)
            # One step on and the writer may be filling our slot; the copy's own number and checksum tell too, and have
            # to do where a writer is as fast as we are and overtakes us each time.
            if word is not None and (tried >= _CAUTIOUS_TRIES or self.sequence == sequence):
                return sequence, word
        return sequence, None

    def dismiss(self, sequence: int) -> None:
        """Let readers overlook the source as long as this word stays its last."""
        self._words[DISMISSED_AT // 8] = sequence


def map_page(descriptor: int, *, write: bool = False) -> tuple[mmap.mmap, Page]:
    """The page in an open file of `SIZE` bytes; the map stays valid when the file is closed."""
    memory = mmap.mmap(descriptor, SIZE, access=mmap.ACCESS_WRITE if write else mmap.ACCESS_READ)
    return memory, Page(memory, memoryview(memory).cast("Q"))
