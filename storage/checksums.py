"""What bytes sum up to."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import cast

import google_crc32c

Part = bytes | bytearray | memoryview


class Sum:
    """Size and CRC32C (Castagnoli, RFC 3720) of bytes that come in parts."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._crc: int = 0

    def add(self, part: bytes) -> None:
        self._crc = crc32c(part, self._crc)
        self.size_bytes += len(part)

    @property
    def crc32c(self) -> str:
        """Eight hexadecimal digits."""
        return f"{self._crc:08x}"


def crc32c(part: Part, before: int = 0) -> int:
    """CRC32C (Castagnoli, RFC 3720) of bytes that follow those that sum up to `before`."""
    return _fastest()(part, before)


@cache
def _fastest() -> Callable[[Part, int], int]:
    try:
        # With the wide instructions of newer processors, and without a copy: 14 GB/s instead of 9 in blocks of 16 KiB.
        return cast("Callable[[Part, int], int]", import_module("awscrt.checksums").crc32c)
    except ImportError:
        return _everywhere


def _everywhere(part: Part, before: int) -> int:
    return cast("int", google_crc32c.extend(before, bytes(part)))  # pyright: ignore[reportUnknownMemberType]
