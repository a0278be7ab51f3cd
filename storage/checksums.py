"""What bytes sum up to."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

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
    # It takes memory as it is, while google-crc32c wants a copy: 8 GB/s instead of 3. Loading it takes 20 ms.
    import anycrc

    return cast("Callable[[Part, int], int]", cast("Any", anycrc).Model("CRC32C").calc)
