"""One object's file in the cache, without a store: what is handed out was written, whatever happened to the file."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdshort.storage.caching.cached import CachedObject
from holdshort.storage.caching.layout import BLOCK_BYTES, GROUP_BLOCKS, Subject

GROUP_BYTES = GROUP_BLOCKS * BLOCK_BYTES
MOST = 2 * GROUP_BYTES + 3 * BLOCK_BYTES + 77
CONTENT = random.Random(5).randbytes(MOST)
SIZES = st.sampled_from([1, BLOCK_BYTES, GROUP_BYTES - 1, GROUP_BYTES, GROUP_BYTES + 1, MOST - 77, MOST])
Step = tuple[Literal["write", "read", "flip", "look", "check"], float, float]
STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "read", "flip", "look", "check"]), st.floats(0, 1), st.floats(0, 1)),
    max_size=12,
)


@contextmanager
def made(size: int) -> Iterator[CachedObject]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.object"
        subject = Subject("s3", "bkt/a", size, "1")
        with path.open("wb") as file:
            file.write(subject.header())
            file.truncate(subject.file_bytes)
        cached = CachedObject.open(path)
        assert cached is not None
        yield cached


def read(cached: CachedObject, start: int, end: int) -> bytes | None:
    into = bytearray(end - start)
    return bytes(into) if cached.read_into(start, memoryview(into)) else None


def write(cached: CachedObject, start: int, end: int) -> None:
    cached.write(start, memoryview(CONTENT)[start : min(end, cached.subject.size)])


def flip(cached: CachedObject, at: int, bit: int = 0) -> None:
    with cached.path.open("r+b") as file:
        (before,) = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([before ^ 1 << bit]), at)


@settings(max_examples=150, deadline=None)
@given(SIZES, STEPS)
@example(MOST, [("write", 0.0, 1.0), ("flip", 1.0, 0.0), ("read", 0.0, 1.0), ("look", 0.0, 1.0)])
def test_nothing_is_handed_out_but_what_was_written(size: int, steps: list[Step]) -> None:
    with made(size) as cached:
        entries_at = cached.subject.block_at(0)
        for step, one, two in steps:
            low, high = sorted((one, two))
            if step == "flip":  # anywhere behind the header: in an entry, in the data, in the room between
                flip(cached, entries_at + int(one * (cached.subject.file_bytes - entries_at - 1)), int(two * 7))
                continue
            start, end = int(low * (size - 1)), max(int(high * size), int(low * (size - 1)) + 1)
            first, last = start // BLOCK_BYTES, -(-end // BLOCK_BYTES)
            match step:
                case "write":
                    write(cached, first * BLOCK_BYTES, last * BLOCK_BYTES)
                case "read":
                    found = read(cached, start, end)
                    assert found in (None, CONTENT[start:end])
                    assert found is not None or cached.missing(start, end), "what is wrong is fetched again"
                case "look":
                    memory = cached.mapped()
                    wrong = cached.unsound(first, last, memoryview(memory))
                    for block in set(range(first, last)) - set(wrong):
                        place = slice(block * BLOCK_BYTES, min((block + 1) * BLOCK_BYTES, size))
                        assert memory[place] == CONTENT[place]
                    assert bool(wrong) or not cached.missing(start, end)
                case _:
                    cached.check()
        write(cached, 0, size)
        assert read(cached, 0, size) == CONTENT[:size], "it heals"
        assert cached.held_bytes() == size


@given(st.randoms(use_true_random=False), st.integers(0, 2))
@settings(max_examples=30, deadline=None)
def test_a_group_whose_blocks_came_one_by_one_is_compared_as_one_from_its_second_read_on(
    chance: random.Random, group: int
) -> None:
    with made(MOST) as cached:
        for block in chance.sample(range(cached.subject.blocks), cached.subject.blocks):
            write(cached, block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES)
        assert read(cached, 0, MOST) == CONTENT
        # The blocks' own entries are not asked any more.
        file = cached.path.open("r+b")
        with file:
            os.pwrite(file.fileno(), bytes(8 * GROUP_BLOCKS), cached.subject.block_at(0))
        assert read(cached, 0, MOST) == CONTENT
        # Nor is the group's sum, once it is wrong.
        write(cached, 0, GROUP_BYTES)
        flip(cached, cached.subject.group_at(group))
        assert read(cached, 0, MOST) == CONTENT


@given(st.lists(st.integers(1, GROUP_BLOCKS), min_size=1))
def test_a_group_that_came_piece_after_piece_is_compared_as_one_at_once(pieces: list[int]) -> None:
    with made(MOST) as cached:
        upto = 0
        for blocks in [*pieces, cached.subject.blocks]:
            write(cached, upto * BLOCK_BYTES, (upto + blocks) * BLOCK_BYTES)
            upto = min(upto + blocks, cached.subject.blocks)
        with cached.path.open("r+b") as file:  # the blocks' own entries
            os.pwrite(file.fileno(), bytes(8 * cached.subject.blocks), cached.subject.block_at(0))
        assert read(cached, 0, MOST) == CONTENT


def test_a_read_past_the_end_finds_nothing_to_read() -> None:
    with made(10) as cached:
        assert read(cached, 10, 10) == b""
        assert read(cached, 0, 10) is None


def _by_threads(tasks: Sequence[Callable[[], int]]) -> None:
    with ThreadPoolExecutor(len(tasks)) as pool:
        list(pool.map(lambda task: task(), tasks))


@pytest.mark.parametrize("wrong", [[], [0], [37], [0, 5 * GROUP_BLOCKS + 3, 17 * GROUP_BLOCKS]])
def test_what_cores_share_is_right_or_all_that_is_wrong_is_found(wrong: list[int]) -> None:
    content = random.Random(6).randbytes(17 * GROUP_BYTES + BLOCK_BYTES + 5)
    with made(len(content)) as cached:
        cached.write(0, memoryview(content))
        for block in wrong:
            flip(cached, cached.subject.data_at + block * BLOCK_BYTES)
        into = bytearray(len(content) - 3)
        assert cached.read_into(3, memoryview(into), _by_threads) == (not wrong)
        assert into == content[3:] or wrong
        missing = [start // BLOCK_BYTES for start, _ in cached.missing(0, len(content))]
        assert missing == wrong, "to be fetched again"


def test_what_somebody_has_cut_off_is_found_by_whoever_reads_it() -> None:
    content = random.Random(7).randbytes(17 * GROUP_BYTES)
    with made(len(content)) as cached:
        cached.write(0, memoryview(content))
        cut = bytearray(len(content))
        os.truncate(cached.path, cached.subject.data_at + 10 * GROUP_BYTES)
        assert not cached.read_into(0, memoryview(cut), _by_threads), "what is gone is fetched again"
