"""Where the bytes of a file system come from: whichever way is fastest for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Version:
    """One content of an object.

    Attributes:
        tag: what changes when the content does (an ETag, a generation, a time); "" where the store has no such thing.
    """

    size: int
    tag: str


Progress = Callable[[int], None]
"""Told each time more bytes have come, and how many they are in all."""


class Origin(Protocol):
    """Reads objects of one file system. Any thread may ask, and many do at once.

    Every method may raise StoreUnavailable once trying again has not helped.
    """

    def first(self, path: str, length: int) -> tuple[Version, bytes]:
        """What the object is now, and its first bytes, up to so many; one round trip. Raises FileNotFoundError."""
        ...

    def read_into(self, path: str, version: Version, start: int, into: memoryview, progress: Progress) -> None:
        """Fill a buffer with the bytes from `start` on.

        Raises:
            ObjectChanged: the object is not of that version any more.
            Abandoned: `progress` said so; nobody wants the rest.
        """
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class Abandoned(Exception):
    """Raised by a `progress` callback to end a request whose bytes nobody wants any more."""


def origin_of(fs: Any, on_refused: Callable[[], None]) -> Origin:
    """The fastest way to read from a file system; `on_refused` is called when the store says that it is too much."""
    from .any_file_system import AnyFileSystem
    from .signed_s3 import SignedS3

    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    if protocol == "s3" and SignedS3.suits(fs):
        return SignedS3(fs, on_refused)
    return AnyFileSystem(fs)
