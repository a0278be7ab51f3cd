"""What is moved at once, and what came of it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from ....jobs.rows import Row
from ....storage.checksums import Part, crc32c
from ....storage.errors import Unreadable

_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class Piece:
    """What is moved at once.

    Attributes:
        index: its number in the file.
        start, end: bytes of the file.
    """

    row: Row
    index: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Moved:
    """A piece that is where it belongs; `tag` is what finishing its file wants."""

    size_bytes: int
    crc32c: int
    tag: str = ""


def check(body: dict[str, Any], crc32c: int) -> None:
    """Raises Unreadable if a whole file's CRC32C is not that of the manifest."""
    wanted = body.get("crc32c")
    if wanted and f"{crc32c:08x}" != wanted:
        said = f"{body['path']} of step {body['step']} has CRC32C {crc32c:08x}, not {wanted}"
        raise Unreadable("corrupt", said)


def summed(data: Part) -> Moved:
    """Bytes that have moved."""
    return Moved(len(data), crc32c(data))


def remember(known: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    """Keep what was found for a key, but no more than a bounded number of them."""
    known[key] = value
    while len(known) > _REMEMBERED:
        known.popitem(last=False)
