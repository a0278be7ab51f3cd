"""Which requests bring which ranges. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Request:
    """One range to fetch, and which of those that were asked for it serves (by their places)."""

    start: int
    end: int
    serves: tuple[int, ...]


def coalesced(ranges: Sequence[tuple[int, int]], *, gap_bytes: int, most_bytes: int) -> list[Request]:
    """Requests for some ranges (start, end) of one object, in order of their start.

    Ranges that overlap, or have no more than the gap between them, are fetched together, as long as the request stays
    within `most_bytes`; one range is never cut. Empty ones need no request.
    """
    found: list[Request] = []
    for place in sorted((p for p, (start, end) in enumerate(ranges) if end > start), key=lambda p: ranges[p]):
        start, end = ranges[place]
        last = found[-1] if found else None
        if last is not None and start <= last.end + gap_bytes and max(end, last.end) - last.start <= most_bytes:
            found[-1] = Request(last.start, max(end, last.end), (*last.serves, place))
        elif last is not None and end <= last.end:
            found[-1] = Request(last.start, last.end, (*last.serves, place))
        else:
            found.append(Request(start, end, (place,)))
    return found


def parts(start: int, end: int, part_bytes: int) -> list[tuple[int, int]]:
    """A range cut into requests of about `part_bytes`, of equal size so that all end at about the same time."""
    length = end - start
    if length <= 0:
        return []
    count = -(-length // part_bytes)
    edges = [start + length * number // count for number in range(count + 1)]
    return list(pairwise(edges))
