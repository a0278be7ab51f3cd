"""Where the bytes of a file system come from: whichever way is fastest for it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from ..answer import Space
from .buffers import Buffers
from .heap import Each


@dataclass(frozen=True, slots=True)
class Version:
    """One content of an object.

    Attributes:
        tag: what changes when the content does (an ETag, a generation, a time); "" where the store has no such thing.
        kept: by which name the store serves this content even when it was replaced, as far as it keeps old versions;
            "": it is served for as long as it is the object's only.
    """

    size: int
    tag: str
    kept: str = ""


Progress = Callable[[int], None]
"""Told each time more bytes have come, and how many they are in all."""


class Origin(Protocol):
    """Reads objects of one file system. Any thread may ask, and many do at once.

    Every method may raise StoreUnavailable once trying again has not helped.
    """

    def get_ready(self, path: str) -> None:
        """Find all that a first request for an object needs, such as credentials; others need not wait for that.

        Raises PermissionError.
        """
        ...

    def first(self, path: str, length: int) -> tuple[Version, bytes]:
        """What the object is now, and its first bytes, up to so many; one round trip. Raises FileNotFoundError."""
        ...

    def read_into(self, path: str, version: Version, start: int, into: Space, progress: Progress) -> None:
        """Fill memory with the bytes from `start` on.

        Raises:
            ObjectChanged: the object is not of that version any more.
            Abandoned: `progress` said so; nobody wants the rest.
        """
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class Source(Protocol):
    """One content of one object, and the way to its bytes. Any thread may ask.

    Attributes:
        keeps: whether what comes is kept for the next reader.
    """

    path: str
    version: Version
    keeps: bool

    def at_hand(self, start: int, into: memoryview, each: Each | None = None) -> bool:
        """Fill a buffer with bytes from `start` on, if that needs no request; whether it did.

        Args:
            each: then cores may share it.
        """
        ...

    def keep(self, start: int, data: memoryview) -> None:
        """These bytes have come already; the next reader may want them."""
        ...

    def read_into(self, start: int, into: memoryview, progress: Progress) -> int:
        """As Origin.read_into; returns how many bytes came from the store."""
        ...

    def read_ahead(self, start: int, into: memoryview, progress: Progress) -> tuple[int, bool]:
        """As `read_into`, of bytes that are wanted later; returns also whether they are in the buffer.

        If not, others have fetched and kept all of them meanwhile: whoever wants them has them by `read_into` soonest.
        """
        ...


class Direct:
    """An object straight from its origin."""

    keeps = False

    def __init__(self, origin: Origin, path: str, version: Version) -> None:
        self.path = path
        self.version = version
        self._origin = origin

    def at_hand(self, start: int, into: memoryview, each: Each | None = None) -> bool:
        return False

    def keep(self, start: int, data: memoryview) -> None:
        return None

    def read_into(self, start: int, into: Space, progress: Progress) -> int:
        self._origin.read_into(self.path, self.version, start, into, progress)
        return len(into)

    def read_ahead(self, start: int, into: Space, progress: Progress) -> tuple[int, bool]:
        return self.read_into(start, into, progress), True


class Cache(Protocol):
    """What was kept of one store's objects for the next reader, in whichever process."""

    def version(self, path: str, since_s: float) -> Version | None:
        """What an object was when any process asked last, if that was not before `since_s` (since the epoch)."""
        ...

    def holds_first(self, path: str, length: int) -> Version | None:
        """What an object was when any process asked last, whenever that was, if so many of its first bytes are here."""
        ...

    def remember(self, path: str, version: Version) -> None:
        """The store has just said what an object is."""
        ...

    def forget(self, path: str) -> None:
        """The object is another one now."""
        ...

    def asking(self, path: str) -> AbstractContextManager[None]:
        """Held while the store is asked for an object, so that others wait for what it says."""
        ...

    def source(self, behind: Source, buffers: Buffers, gap_bytes: int, *, is_use: bool = True) -> Source:
        """The way to an object's bytes, through the cache if it can be cached.

        Args:
            is_use: whether somebody is about to read them.
        """
        ...


class Abandoned(Exception):
    """Raised by a `progress` callback to end a request whose bytes nobody wants any more."""


def origin_of(fs: Any, on_refused: Callable[[], None]) -> Origin:
    """The fastest way to read from a file system; `on_refused` is called when the store says that it is too much."""
    from .any_file_system import AnyFileSystem
    from .direct_gcs import DirectGcs
    from .http_origin import HttpOrigin
    from .signed_s3 import SignedS3

    by_methods = AnyFileSystem(fs)
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    if protocol == "s3" and SignedS3.suits(fs):
        return HttpOrigin(SignedS3(fs), by_methods, on_refused)
    if protocol == "gs" and DirectGcs.suits(fs):
        return HttpOrigin(DirectGcs(fs), by_methods, on_refused)
    return by_methods
