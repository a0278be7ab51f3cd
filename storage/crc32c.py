"""CRC32C of bytes that were summed up apart: what the sums of slices say of the whole. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def of_equal(sums: Sequence[int], size_bytes: int) -> int:
    """The CRC32C of slices that are all of one size; for few sizes, since tables are kept for each."""
    if not sums:
        return 0
    first, second, third, fourth = _tables(size_bytes)
    found = 0
    for crc in sums:
        found = first[found & 255] ^ second[found >> 8 & 255] ^ third[found >> 16 & 255] ^ fourth[found >> 24] ^ crc
    return found


@lru_cache(maxsize=4)
def _tables(size_bytes: int) -> tuple[list[int], ...]:
    """What each value of each byte of a sum becomes once so many bytes follow."""
    shift = _shift(size_bytes)
    bits = [_times(shift, 1 << place) for place in range(32)]
    tables: list[list[int]] = []
    for low in range(0, 32, 8):
        table = [0]
        for bit in bits[low : low + 8]:  # linear: each bit adds its own part
            table += [value ^ bit for value in table]
        tables.append(table)
    return tuple(tables)


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
