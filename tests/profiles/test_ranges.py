"""Which requests bring which ranges, and how much is fetched ahead."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from holdshort.profiles import Access
from holdshort.profiles.access import KIB, MIB
from holdshort.storage.caching.layout import BLOCK_BYTES
from holdshort.storage.reading.ahead import ReadAhead
from holdshort.storage.reading.ranges import coalesced, part_end, parts

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


def test_reading_in_order_is_run_ahead_of_more_and_more() -> None:
    ahead, ends = ReadAhead(Access(), 10**9), list[int]()
    for number in range(20):
        ends.append(ahead.read(number * MIB, MIB) - (number + 1) * MIB)
    assert ends[0] == 16 * MIB
    assert ends == sorted(ends)
    assert ends[-1] == Access().read_ahead_bytes


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 10**6)), min_size=1, max_size=50))
def test_what_is_fetched_ahead_stays_in_proportion_to_what_was_read(reads: list[tuple[int, int]]) -> None:
    ahead = ReadAhead(Access(), 2 * 10**9)
    read = 0
    for start, length in reads:
        read += length
        until = ahead.read(start, length)
        assert start + length <= until <= start + length + 16 * (read + 256 * KIB * len(reads)) + 32 * KIB


def test_reading_at_random_is_never_run_ahead_of() -> None:
    ahead = ReadAhead(Access(), 10**9)
    for start in (5 * 10**8, 10**8, 9 * 10**8, 3 * 10**8, 7 * 10**8):
        assert ahead.read(start, 65536) == start + 65536
    assert ahead.is_random
