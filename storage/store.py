"""The four primitives that everything durable rests on: exclusive create, read, list, delete.

One more, overwriting only what nobody else has, is there where a store can do it; `capabilities` says whether.

Paths are relative to the store's URL, with "/" between segments. Objects are small (a spec, a shard's
results) and are written whole, so a reader sees all of an object or nothing of it.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from .errors import StoreRefused

if TYPE_CHECKING:
    from .flow import Flow
    from .parted.protocol import Parted

_SEGMENT = re.compile(r"[A-Za-z0-9_@=+,:~%-][A-Za-z0-9._@=+,:~% -]{0,249}")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store was seen to keep when it was tried; what was not tried counts as absent.

    Attributes:
        exclusive_create: of several that create one object, one does (`create`).
        conditional_overwrite: an object is overwritten only if it is still what it was (`replace_if`).
    """

    exclusive_create: bool = False
    conditional_overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Located:
    """An object as any fsspec file system reaches it.

    Attributes:
        options: of the file system; they may hold credentials.
    """

    protocol: str
    path: str
    options: Mapping[str, Any] = field(repr=False)


class Store(Protocol):
    """A place that keeps objects, seen by many processes on many hosts.

    Every method may raise StoreUnavailable; then the same call may work later.
    """

    @property
    def url(self) -> str:
        """Where it is, without credentials."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What was seen of it, by whoever opened it first (`open_store`)."""
        ...

    def create(self, path: str, data: bytes) -> bool:
        """Write an object that must not exist yet; atomic between all writers.

        Returns:
            True if this call created it, False if an object of that name was there (it is untouched).
        """
        ...

    def replace(self, path: str, data: bytes) -> None:
        """Write an object whether it exists or not; the last writer wins.

        Only for what may be lost or be a moment old (a heartbeat, an operator's hold), never for the ledger.
        """
        ...

    def read_tagged(self, path: str) -> tuple[bytes, str]:
        """An object's bytes and its tag, for `replace_if`: another tag means other bytes, or written since.

        Raises:
            ObjectNotFound: there is none.
            StoreRefused: the store has no conditional overwrite.
        """
        ...

    def replace_if(self, path: str, data: bytes, tag: str) -> bool:
        """Overwrite an object only if it still has a tag; atomic between all that do.

        Returns:
            Whether it was overwritten by this call. If an answer was lost on the way, it may have been all the same:
            whoever needs to know compares the bytes.

        Raises:
            StoreRefused: the store has no conditional overwrite.
        """
        ...

    def read(self, path: str, *, first: int | None = None) -> bytes:
        """An object's bytes, or only its `first` ones. Raises ObjectNotFound."""
        ...

    def upload(self, path: str, parts: Iterable[bytes]) -> None:
        """Write a large object from its parts; visible when all are there, and then the last writer wins."""
        ...

    def read_parts(self, path: str, part_bytes: int = 8 * 2**20) -> Iterator[bytes]:
        """A large object's bytes in parts. Raises ObjectNotFound."""
        ...

    def read_range(self, path: str, start: int, end: int, flow: Flow) -> bytes:
        """Bytes from `start` to before `end` of an object that has them. Raises ObjectNotFound, Interrupted."""
        ...

    def size(self, path: str) -> int | None:
        """An object's bytes; None when it does not exist."""
        ...

    def located(self, path: str) -> Located | None:
        """Where others find an object; None on this machine's own disk or in its memory."""
        ...

    @property
    def parted(self) -> Parted | None:
        """How objects are written in parts here; None where they can't be."""
        ...

    def list(self, folder: str) -> builtins.list[str]:
        """Names directly in a folder ("": the root), sorted; folders end in "/". One that does not exist is empty."""
        ...

    def delete(self, path: str) -> None:
        """Remove an object; one that does not exist is no error."""
        ...

    def delete_folder(self, folder: str) -> None:
        """Remove a folder and all below it; one that does not exist is no error."""
        ...


def check_path(path: str) -> str:
    """The path itself, if each segment is a plain name; ValueError otherwise.

    Ids and names of users become segments, so this is what keeps them inside the store.
    """
    for segment in path.split("/"):
        if not _SEGMENT.fullmatch(segment):
            raise ValueError(
                f"{path!r} is no path in a store: the segment {segment!r} is empty, too long, starts with a "
                f"dot, or has a sign other than letters, digits and ._@=+,:~%-"
            )
    return path


def without_overwrite(url: str) -> StoreRefused:
    """What to raise where a store has no conditional overwrite."""
    return StoreRefused(
        f"The store {url} has no conditional overwrite (or was not opened by open_store, which tries it); "
        f"ask its capabilities before. On s3:// and gs:// there is one."
    )
