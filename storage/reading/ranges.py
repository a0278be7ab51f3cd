"""Which requests bring which ranges. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ...profiles.access import KIB, MIB


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


EDGE_BYTES = 16 * KIB
"""Where ranges are cut: at multiples of the cache's blocks. Two requests that shared one would wait for each other."""
_EDGES = (MIB, EDGE_BYTES, 1)
"""Large ones at multiples of the cache's groups: what was kept as a whole is compared as a whole later on."""


_LEAST_BYTES = 2 * MIB
"""Half of such a request is waiting for its first byte (40 ms, 90 MB/s). 32 MB come in 104 ms by these, by parts of
8 MiB in 171."""


def parts(start: int, end: int, part_bytes: int) -> list[tuple[int, int]]:
    """A range cut into requests of about `part_bytes`, of equal size so that all end at about the same time."""
    if end - start <= part_bytes:
        return [(start, end)] if start < end else []
    edge = _edge(part_bytes)
    first = start - start % edge
    count = -(-(end - first) // part_bytes)
    each = -(-(end - first) // count // edge) * edge
    edges = [start, *range(first + each, end, each), end]
    return list(pairwise(edges))


def spread(start: int, end: int, part_bytes: int, at_once: int) -> list[tuple[int, int]]:
    """A range cut for somebody who waits for all of it: into smaller requests than parts, if so many may be at once."""
    edge = _edge(part_bytes)
    each = -(-(end - start) // at_once // edge) * edge
    return parts(start, end, min(part_bytes, max(_LEAST_BYTES, each)))


def part_end(start: int, part_bytes: int) -> int:
    """Where a request that begins at `start` ends when more follows it."""
    end = start + part_bytes
    return end - end % next(edge for edge in _EDGES if part_bytes >= edge)


def pieces(start: int, end: int, *, read_at: int, read_bytes: int) -> list[int]:
    """Lengths of the pieces of a part that reads of `read_bytes` will want, when one at `read_at` is followed by more.

    The first and the last may be less than a read.
    """
    first = start + (read_at - start) % read_bytes
    edges = sorted({start, *range(first, end, read_bytes), end})
    return [b - a for a, b in pairwise(edges)]


def _edge(part_bytes: int) -> int:
    """What parts of about this size begin and end with."""
    return next(edge for edge in _EDGES if part_bytes % edge == 0)
