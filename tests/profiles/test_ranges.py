"""Which requests bring which ranges, and how much is fetched ahead."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdshort.profiles import Access
from holdshort.profiles.access import KIB, MIB
from holdshort.storage.caching.layout import BLOCK_BYTES
from holdshort.storage.reading.ahead import ReadAhead
from holdshort.storage.reading.ranges import coalesced, part_end, parts, pieces, spread

spans = st.tuples(st.integers(0, 10_000), st.integers(0, 3000)).map(lambda s: (s[0], s[0] + s[1]))


@given(st.lists(spans, max_size=30), st.integers(0, 500), st.integers(1, 4000))
def test_every_range_is_served_by_one_request_that_holds_all_of_it(
    ranges: list[tuple[int, int]], gap: int, most: int
) -> None:
    requests = coalesced(ranges, gap_bytes=gap, most_bytes=most)
    served = [place for request in requests for place in request.serves]
    assert sorted(served) == [place for place, (start, end) in enumerate(ranges) if end > start]
    for request in requests:
        for place in request.serves:
            assert request.start <= ranges[place][0] < ranges[place][1] <= request.end
        longest = max(ranges[place][1] - ranges[place][0] for place in request.serves)
        assert request.end - request.start <= max(most, longest)
        covered = sum(ranges[place][1] - ranges[place][0] for place in request.serves)
        assert request.end - request.start <= covered + gap * (len(request.serves) - 1)


@given(st.integers(0, 10**9), st.integers(1, 10**8), st.integers(4, 600))
def test_ranges_are_cut_where_blocks_of_the_cache_end(start: int, length: int, blocks: int) -> None:
    edges = [end for _, end in parts(start, start + length, blocks * BLOCK_BYTES)][:-1]
    edges.append(part_end(start, blocks * BLOCK_BYTES))
    assert all(edge % BLOCK_BYTES == 0 for edge in edges)
    assert start < edges[-1] <= start + blocks * BLOCK_BYTES


@given(st.integers(0, 10**9), st.integers(0, 10**8), st.integers(1024, 10**7))
def test_parts_cover_a_range_without_gap_or_overlap(start: int, length: int, part: int) -> None:
    found = parts(start, start + length, part)
    assert sum(end - begin for begin, end in found) == length
    assert all(0 < end - begin <= part for begin, end in found)
    assert all(a[1] == b[0] for a, b in pairwise(found))


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(64 * KIB, 64 * MIB), st.integers(1, 256))
def test_who_waits_for_a_range_has_it_by_as_many_requests_as_pay(start: int, length: int, part: int, most: int) -> None:
    found = spread(start, start + length, part, most)
    assert sum(end - begin for begin, end in found) == length
    assert all(a[1] == b[0] for a, b in pairwise(found))
    larger = parts(start, start + length, part)
    assert len(found) >= len(larger), "never by larger ones than the profile says"
    if len(found) > len(larger):
        assert len(found) <= most + 1
        assert length / len(found) > MIB


@given(st.integers(0, 10**9), st.integers(1, 64 * MIB), st.integers(0, 10**9), st.integers(256 * KIB, 64 * MIB))
def test_pieces_of_a_part_end_where_reads_do(start: int, length: int, read_at: int, read_bytes: int) -> None:
    found = pieces(start, start + length, read_at=read_at, read_bytes=read_bytes)
    assert sum(found) == length
    assert all(0 < each <= read_bytes for each in found)
    edges = [start + sum(found[:count]) for count in range(1, len(found))]
    assert all((edge - read_at) % read_bytes == 0 for edge in edges)
    assert set(found[1:-1]) <= {read_bytes}


def test_reading_in_order_is_run_ahead_of_more_and_more() -> None:
    ahead, ends = ReadAhead(Access(read_ahead_bytes=384 * MIB), 10**9), list[int]()
    for number in range(20):
        ends.append(ahead.read(number * MIB, MIB) - (number + 1) * MIB)
    assert ends[0] == 256 * MIB
    assert set(ends[1:]) == {384 * MIB}, "no more than the profile allows"
    ahead = ReadAhead(Access(read_ahead_bytes=384 * MIB), 10**9)
    small = [ahead.read(number * 32 * KIB, 32 * KIB) - (number + 1) * 32 * KIB for number in range(8)]
    assert small[:4] == [512 * KIB, MIB, 36 * 64 * KIB, 4 * MIB]


def test_who_has_jumped_about_is_run_ahead_of_less() -> None:
    ahead, ends = ReadAhead(Access(read_ahead_bytes=384 * MIB), 10**9), list[int]()
    for start in (5 * 10**8, 2 * 10**8, 7 * 10**8):
        ahead.read(start, 64 * KIB)
    for number in range(6):
        end = number * MIB + MIB
        ends.append(ahead.read(end - MIB, MIB) - end)
    assert ends == [0, 16 * MIB, 64 * MIB, 144 * MIB, 256 * MIB, 384 * MIB]


@given(st.integers(MIB, 10**9), st.floats(0, 1), st.integers(0, 10**9))
def test_who_wants_more_than_half_from_the_beginning_wants_the_rest(size: int, share: float, start: int) -> None:
    ahead, length = ReadAhead(Access(read_ahead_bytes=2**30), size), max(1, int(share * size))
    until = ahead.read(start, length)
    if start <= 256 * KIB and 2 * length > size:
        assert until == size
    elif start > 256 * KIB:
        assert until <= start + length + 32 * KIB


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 10**6)), min_size=1, max_size=50))
def test_what_is_fetched_ahead_stays_in_proportion_to_what_was_read(reads: list[tuple[int, int]]) -> None:
    ahead = ReadAhead(Access(), 2 * 10**9)
    read = 0
    for start, length in reads:
        read += length
        until = ahead.read(start, length)
        in_order = read + 256 * KIB * len(reads)
        most = 16 * in_order * max(1.0, in_order / (64 * KIB))
        assert start + length <= until <= start + length + most + 32 * KIB


def _members(ahead: ReadAhead, *members: tuple[int, int]) -> list[int]:
    """Read members of an archive, each a header and then its data; returns how much came with each header."""
    found: list[int] = []
    for start, length in members:
        found.append(ahead.read(start, 30) - start)
        ahead.read(start + 30, 100)
        ahead.read(start + 130, length - 130)
    return found


def test_what_followed_the_last_jumps_comes_along_with_the_next() -> None:
    ahead = ReadAhead(Access(gap_bytes=256 * KIB), 10**9)
    came = _members(ahead, (5 * 10**8, 150_000), (10**8, 90_000), (9 * 10**8, 120_000), (3 * 10**8, 5000))
    assert came[0] < 40_000
    assert came[2:] == [150_000, 150_000]
    assert not ahead.is_random
    assert _members(ahead, (0, 10**6), (6 * 10**8, 5000)) == [150_000, 256 * KIB], "no more than one request is worth"


@pytest.mark.parametrize("access", [Access(read_ahead="none"), Access()], ids=["none", "adaptive"])
def test_nothing_comes_along_where_that_is_not_wanted_or_one_read_is_all(access: Access) -> None:
    ahead = ReadAhead(access, 10**9)
    _members(ahead, (5 * 10**8, 150_000), (10**8, 90_000), (9 * 10**8, 120_000))
    if access.read_ahead != "none":
        for start in (7 * 10**8, 2 * 10**8):
            ahead.read(start, 1000)
    assert ahead.read(4 * 10**8, 1000) <= 4 * 10**8 + 32 * KIB
    assert ahead.is_random


def test_reading_at_random_is_never_run_ahead_of() -> None:
    ahead = ReadAhead(Access(), 10**9)
    for start in (5 * 10**8, 10**8, 9 * 10**8, 3 * 10**8, 7 * 10**8):
        assert ahead.read(start, 65536) == start + 65536
    assert ahead.is_random
