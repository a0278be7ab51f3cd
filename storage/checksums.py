"""What bytes sum up to."""

from __future__ import annotations

from typing import cast

import google_crc32c


class Sum:
    """Size and CRC32C (Castagnoli, RFC 3720) of bytes that come in parts."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._crc: int = 0

    def add(self, part: bytes) -> None:
        self._crc = cast("int", google_crc32c.extend(self._crc, part))  # pyright: ignore[reportUnknownMemberType]
        self.size_bytes += len(part)

    @property
    def crc32c(self) -> str:
        """Eight hexadecimal digits."""
        return f"{self._crc:08x}"
