"""CRC32C of bytes that were summed up apart: what the sums of slices say of the whole. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

_POLYNOMIAL = 0x82F63B78
"""Castagnoli's, bits reversed: bit 31 stands for x to the 0."""
_ONE = 1 << 31


def joined(first: int, second: int, second_bytes: int) -> int:
    """The CRC32C of some bytes and `second_bytes` more after them, from the CRC32C of each."""
    return _times(_shift(second_bytes), first) ^ second


def of_slices(slices: Iterable[tuple[int, int]]) -> int:
    """The CRC32C of slices in their order, each given by (CRC32C, bytes)."""
    found = 0
    for crc, size_bytes in slices:
        found = joined(found, crc, size_bytes)
    return found


def _times(a: int, b: int) -> int:
    """The product of two polynomials over GF(2), modulo Castagnoli's."""
    product = 0
    for place in range(31, -1, -1):
        if a >> place & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


@lru_cache(maxsize=1024)
def _shift(size_bytes: int) -> int:
    """x to the 8 * size_bytes: appending so many zero bytes multiplies by it."""
    result, power = _ONE, 1 << 23  # x to the 8
    while size_bytes:
        if size_bytes & 1:
            result = _times(result, power)
        power = _times(power, power)
        size_bytes >>= 1
    return result
