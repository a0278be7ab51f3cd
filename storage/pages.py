"""What the system is asked about the pages of memory that is not an mmap object of Python's."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from functools import cache

HUGE_BYTES = 2 * 2**20
POPULATE = 23
"""MADV_POPULATE_WRITE, of Linux 5.14 and newer: make the pages now, which takes less time than one by one as they are
written. Older systems refuse it."""


def advise(addresses: range, advice: int) -> bool:
    """Whether the system has taken an advice on whole pages of memory. Other threads of Python go on meanwhile.

    Args:
        advice: POPULATE, or one of mmap's, e.g. mmap.MADV_HUGEPAGE.
    """
    call = _madvise()
    return call is not None and not call(addresses.start, len(addresses), advice)


@cache
def _madvise() -> Callable[[int, int, int], int] | None:
    import ctypes

    if not hasattr(mmap, "MADV_HUGEPAGE"):  # not Linux
        return None
    found = ctypes.CDLL(None).madvise
    found.restype, found.argtypes = ctypes.c_int, (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return found
