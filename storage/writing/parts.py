"""How large the parts of an object are. Pure.

S3 takes 10,000 parts for an object of up to 5 TiB, each of at least 5 MiB but the last, and of at most 5 GiB.
"""

from __future__ import annotations

from ...profiles.access import GIB, MIB

MOST_PARTS = 10_000
MOST_BYTES = 5 * 1024 * GIB
LEAST_PART, MOST_PART = 5 * MIB, 5 * GIB
_STEP = 900


def even_part(size_bytes: int, part_bytes: int) -> int:
    """How large each part of an object of known size is."""
    return max(LEAST_PART, part_bytes, -(-size_bytes // MOST_PARTS))


def growing_part(number: int, part_bytes: int) -> int:
    """How large part `number` (from 1) of an object is whose size nobody knows yet: twice as large every 900 parts.

    So the parts always suffice, and one is never more than a few thousandths of what was written before it.
    """
    return min(MOST_PART, max(LEAST_PART, part_bytes) << ((number - 1) // _STEP))
