"""What a store needs for an object that many write together.

`begin` gives a token, which whoever writes must know: note it durably, since all parts belong to it. Parts may be put
in any order, by any process, and again. `finish` makes them appear as one plain object; until then nobody sees it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..flow import Flow


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An object that was begun and neither finished nor dropped.

    Attributes:
        touched_at: seconds since the epoch at which it was begun, or last written where that is known.
    """

    path: str
    token: str
    touched_at: float


class Parted(Protocol):
    """Objects in parts, in one place. Every method may raise StoreUnavailable; then the same call may work later."""

    @property
    def parts_most(self) -> int:
        """Into how many parts an object may be cut; all but its last are of one size, at least 5 MiB."""
        ...

    def begin(self, path: str) -> str:
        """Begin an object; returns its token."""
        ...

    def put(self, path: str, token: str, index: int, start: int, data: bytes, flow: Flow) -> str:
        """Write one part, the bytes from `start` on; returns the tag that `finish` wants.

        Raises:
            Interrupted: `flow` was stopped; the part has to be put again.
            UploadGone: the object was finished or dropped.
        """
        ...

    def finish(self, path: str, token: str, tags: Sequence[str], size_bytes: int) -> None:
        """Make the object appear, from its parts' tags in order; done already is no error.

        Raises:
            UploadGone: it was dropped, or what is there is not as long.
        """
        ...

    def drop(self, path: str, token: str) -> None:
        """Give the object up, with all its parts; one that is gone is no error."""
        ...

    def unfinished(self, folder: str) -> Iterator[Unfinished]:
        """What is below a folder and was neither finished nor dropped."""
        ...
