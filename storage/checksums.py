"""What bytes sum up to."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

Part = bytes | bytearray | memoryview


class Sum:
    """Size and CRC32C (Castagnoli, RFC 3720) of bytes that come in parts."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._crc: int = 0

    def add(self, part: Part) -> None:
        self._crc = crc32c(part, self._crc)
        self.size_bytes += len(part)

    @property
    def crc32c(self) -> str:
        """Eight hexadecimal digits."""
        return f"{self._crc:08x}"


def crc32c(part: Part, before: int = 0) -> int:
    """CRC32C (Castagnoli, RFC 3720) of bytes that follow those that sum up to `before`."""
    return _calculate()(part, before)


@cache
def _calculate() -> Callable[[Part, int], int]:
    # It takes memory as it is, and lets other threads run meanwhile: 6 GB/s on one core instead of 3 by google-crc32c,
    # which wants a copy.
    from fastcrc import crc32

    return crc32.iscsi
