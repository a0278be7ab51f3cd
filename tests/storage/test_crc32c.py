"""Sums of bytes are those of another implementation, and sums of slices say what the sum of the whole is."""

from __future__ import annotations

import random
from collections.abc import Callable

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdshort.storage.checksums import Part, crc32c
from holdshort.storage.crc32c import joined, of_slices
from holdshort.storage.parted.cutting import PIECE_BYTES, cut, pieces, slices

MIB = 2**20


@given(st.lists(st.binary(max_size=300), max_size=12))
def test_the_sum_of_slices_is_that_of_their_bytes(parts: list[bytes]) -> None:
    assert of_slices((google_crc32c.value(part), len(part)) for part in parts) == google_crc32c.value(b"".join(parts))


@pytest.mark.parametrize("kind", [bytes, bytearray, lambda data: memoryview(bytearray(data))])
@pytest.mark.parametrize("size", [0, 1, 2**17, 2**17 + 1, 5 * 2**17 - 3])
def test_the_sum_of_bytes_is_the_same_in_whatever_memory_they_lie(kind: Callable[[bytes], Part], size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert crc32c(kind(data), before=5) == google_crc32c.extend(5, data)


@given(st.binary(max_size=64), st.integers(0, 3 * MIB))
def test_zeros_may_follow_in_any_number(first: bytes, zeros: int) -> None:
    whole = google_crc32c.value(first + bytes(zeros))
    assert joined(google_crc32c.value(first), google_crc32c.value(bytes(zeros)), zeros) == whole


def test_so_it_is_for_more_than_memory_holds() -> None:
    # A gigabyte of zeros, twice as many, and so on: joined by twos and by ones it is the same.
    gib = of_slices([(google_crc32c.value(bytes(MIB)), MIB)] * 1024)
    by_twos = joined(gib, gib, 2**30)
    assert of_slices([(gib, 2**30)] * 4) == joined(by_twos, by_twos, 2**31)


@given(st.integers(0, 2**45), st.integers(8 * MIB, 2**32), st.sampled_from([10_000, 2**31]))
def test_a_file_is_cut_into_slices_of_whole_pieces_that_a_store_can_take(size: int, wanted: int, most: int) -> None:
    how = cut(size, slice_bytes=wanted, parts_most=most)
    assert how.piece_bytes >= PIECE_BYTES >= 5 * MIB
    assert -(-size // how.piece_bytes) <= most
    assert how.slice_bytes % how.piece_bytes == 0
    assert how.slice_bytes <= max(wanted, how.piece_bytes)


@given(st.integers(0, 2000), st.integers(1, 40), st.integers(1, 5))
def test_slices_and_their_pieces_cover_a_file_once(size: int, piece: int, in_slice: int) -> None:
    found = [each for first, length in slices(size, piece * in_slice) for each in pieces(first, length, piece)]
    assert [index for index, _, _ in found] == list(range(len(found)))
    assert [start for _, start, _ in found] == [index * piece for index in range(len(found))]
    assert [end for _, _, end in found] == [*[start for _, start, _ in found][1:], size]


def test_what_can_t_be_written_in_parts_stays_whole() -> None:
    how = cut(10**12, slice_bytes=8 * MIB, parts_most=None)
    assert list(slices(10**12, how.slice_bytes)) == [(0, 10**12)]
    assert list(slices(0, cut(0, slice_bytes=8 * MIB, parts_most=None).slice_bytes)) == [(0, 0)]
