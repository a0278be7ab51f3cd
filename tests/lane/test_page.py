"""A word is read whole, and never an older one after a newer one, however writer and reader interleave."""

from __future__ import annotations

import mmap
import random
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from holdshort.workers.lane.page import Page, map_page
from holdshort.workers.lane.reading import Figures
from holdshort.workers.lane.record import SEQUENCE_AT, SIZE, Word, pack_word, slot_of, unpack_word

INTERLEAVINGS = 1_000_000


def _word(number: int) -> Word:
    """A word that says its number in every part, so that a mixture shows."""
    state = "hold" if number % 2 else "clear"
    return Word(
        state,
        number / 1e9,
        f"word {number} " + "x" * (number % 37),
        number,
        number * 3,
        number * 5,
        Figures(number % 1000),
    )


def _number(word: Word) -> int:
    return word.beat_ns


class Stepping:
    """A memory whose bytes a writer stores a few at a time, while a reader copies; each access lets the other go on."""

    def __init__(self, rng: random.Random) -> None:
        self.raw = bytearray(SIZE)
        self.published = 0
        self.interleavings = 0
        self._rng = rng
        self._todo: list[tuple[int, bytes]] = []
        self._number = 0

    def writer_step(self) -> None:
        """The writer does its next store: a piece of the slot, or the sequence number."""
        self.interleavings += 1
        if not self._todo:
            self._number += 1
            where, content = slot_of(self._number), pack_word(_word(self._number), self._number)
            cuts = sorted({0, len(content), *(self._rng.randrange(len(content)) for _ in range(3))})
            self._todo = [(where.start + a, content[a:b]) for a, b in pairwise(cuts)]
            self._todo.append((SEQUENCE_AT, self._number.to_bytes(8, "little")))
        at, part = self._todo.pop(0)
        self.raw[at : at + len(part)] = part
        if at == SEQUENCE_AT:
            self.published = self._number

    # What a page reads through: between any two loads the writer may have done any number of stores.

    def __getitem__(self, where: slice) -> bytes:
        middle = self._rng.randrange(where.start, where.stop)
        first = bytes(self.raw[where.start : middle])
        for _ in range(self._rng.choice((0, 1, 1, 2, 7))):
            self.writer_step()
        return first + bytes(self.raw[middle : where.stop])

    def __setitem__(self, where: slice, content: bytes) -> None:
        raise AssertionError("a reader writes nothing")


class Words:
    """The same memory by words of 8 bytes, each loaded in one go."""

    def __init__(self, memory: Stepping, rng: random.Random) -> None:
        self._memory = memory
        self._rng = rng

    def __getitem__(self, place: int) -> int:
        for _ in range(self._rng.choice((0, 0, 1, 3))):
            self._memory.writer_step()
        return int.from_bytes(self._memory.raw[place * 8 : place * 8 + 8], "little")


class Careless(Page):
    """A page that neither looks at the number again nor checks what it copied, to see that the test can fail."""

    def read(self) -> tuple[int, Word | None]:
        sequence = self.sequence
        if sequence == 0:
            return 0, None
        raw = bytes(self._memory[slot_of(sequence)])
        try:
            said = int.from_bytes(raw[:8], "little")
            return sequence, unpack_word(raw[:-4] + _check(raw[:-4]), said)
        except (ValueError, IndexError):
            return sequence, None


def _check(raw: bytes) -> bytes:
    from zlib import crc32

    return crc32(raw).to_bytes(4, "little")


def _problems(make: Callable[[Stepping, Words], Page], *, seed: int, interleavings: int) -> tuple[int, int]:
    """(reads that were torn or stale, interleavings tried)."""
    rng = random.Random(seed)
    memory = Stepping(rng)
    page = make(memory, Words(memory, rng))  # type: ignore[arg-type]
    wrong = newest = 0
    while memory.interleavings < interleavings:
        before = memory.published
        sequence, word = page.read()
        if word is None:
            wrong += before > 0
            continue
        number = _number(word)
        wrong += word != _word(number) or number < before or sequence < newest
        newest = sequence
        for _ in range(rng.choice((0, 1, 5, 30))):
            memory.writer_step()
    return wrong, memory.interleavings


def test_a_million_interleavings_show_no_torn_and_no_stale_word() -> None:
    wrong = tried = 0
    for seed in range(10):
        found, steps = _problems(Page, seed=seed, interleavings=INTERLEAVINGS // 10)
        wrong += found
        tried += steps
    assert tried >= INTERLEAVINGS
    assert wrong == 0


class Overtaking:
    """A memory in which one more word is written during each copy: nothing of the copy's own slot changes."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, SIZE)
        self.words = memoryview(self.memory).cast("Q")
        self.writer = Page(self.memory, self.words)
        self.number = self.writer.write(_word(1))

    def __getitem__(self, where: slice) -> bytes:
        copy = bytes(self.memory[where])
        self.number = self.writer.write(_word(self.number + 1))
        return copy

    def __setitem__(self, where: slice, content: bytes) -> None:
        raise AssertionError("a reader writes nothing")


def test_a_reader_that_is_overtaken_each_time_still_gets_a_whole_word() -> None:
    memory = Overtaking()
    before = memory.number
    sequence, word = Page(memory, memory.words).read()
    assert word == _word(sequence)
    assert before <= sequence < memory.number <= before + 100


def test_without_its_checks_the_same_test_fails() -> None:
    wrong, _ = _problems(Careless, seed=1, interleavings=50_000)
    assert wrong > 10


WRITER = """
import os, sys, time
from holdshort.workers.lane.page import map_page
from holdshort.workers.lane.record import Word
descriptor = os.open(sys.argv[1], os.O_RDWR)
memory, page = map_page(descriptor, write=True)
print("writes", flush=True)
number, end = 0, time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    for _ in range(100):
        number += 1
        state = "hold" if number % 2 else "clear"
        page.write(Word(state, number / 1e9, f"word {number}", number, number * 3, number * 5))
print(number)
"""


def test_a_reader_in_another_process_sees_whole_words_in_order(tmp_path: Path) -> None:
    path = tmp_path / "map"
    path.write_bytes(bytes(SIZE))
    with path.open("rb") as file, subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), "1.5"], stdout=subprocess.PIPE, text=True
    ) as writer:  # fmt: skip
        assert writer.stdout is not None
        _, page = map_page(file.fileno())
        assert writer.stdout.readline() == "writes\n"
        reads = newest = 0
        while writer.poll() is None:
            _, word = page.read()
            if word is None:
                assert newest == 0, "there was a word before"
                continue
            number = word.beat_ns
            assert number >= newest
            assert (word.since_ns, word.until_ns, word.reason) == (number * 3, number * 5, f"word {number}")
            newest = number
            reads += 1
        written = int(writer.stdout.read())
    assert written > 10_000
    assert reads > 5_000
    assert page.read()[0] == written


def test_a_writer_that_is_killed_in_the_middle_of_a_word_leaves_the_one_before() -> None:
    memory = mmap.mmap(-1, SIZE)
    page = Page(memory, memoryview(memory).cast("Q"))
    page.write(_word(1))
    half = pack_word(_word(2), 2)
    memory[slot_of(2)] = half[:100] + bytes(len(half) - 100)
    assert page.read() == (1, _word(1))


def test_a_map_that_is_damaged_gives_no_word_and_says_so_soon() -> None:
    memory = mmap.mmap(-1, SIZE)
    page = Page(memory, memoryview(memory).cast("Q"))
    page.write(_word(1))
    memory[slot_of(1).start + 40] ^= 1
    begin = time.monotonic()
    assert page.read() == (1, None)
    assert time.monotonic() - begin < 1.0
