"""What a safetensors file says about itself, believed only as far as it holds together. Pure.

8 bytes     how long the header is, little-endian
header      JSON: {name: {"dtype", "shape", "data_offsets": [begin, end]}, …, "__metadata__": {text: text}}
data        the tensors' bytes, without gaps
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any, cast

from ..errors import Corrupt

PREFIX_BYTES = 8
MOST_BYTES = 100_000_000
"""Of a header; the format's own limit."""
_METADATA = "__metadata__"

BITS: Mapping[str, int] = MappingProxyType(
    {
        "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
        "F8_E5M2FNUZ": 8, "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32,
        "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64,
    }
)  # fmt: skip
"""How many an element of each type takes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor in a file.

    Attributes:
        dtype: as the format names it, see BITS.
        start: of its bytes in the file; `end` is the one after its last.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a file holds: tensors by name in the header's order, and text that its writer has added."""

    tensors: Mapping[str, Entry]
    metadata: Mapping[str, str]


def length_of(prefix: bytes, size: int, path: str) -> int:
    """How long the header is. Raises Corrupt.

    Args:
        prefix: the file's first PREFIX_BYTES.
        size: of the file.
    """
    if size < PREFIX_BYTES + 2:
        raise Corrupt(f"{path} is no safetensors file: it has {size} bytes, too few for a header.")
    length = int.from_bytes(prefix, "little")
    if length > MOST_BYTES:
        raise _bad(path, 0, f"the header would be {length} bytes long, and the format allows {MOST_BYTES}")
    if length < 2 or PREFIX_BYTES + length > size:
        raise _bad(path, 0, f"the header would be {length} bytes long, in a file of {size}")
    return length


def parsed(text: bytes, size: int, path: str) -> Header:
    """The header from its JSON.

    Raises:
        Corrupt: says what does not hold together, in which file, at which byte.
    """
    if not text.startswith(b"{"):
        raise _bad(path, PREFIX_BYTES, "the header does not begin with '{'")
    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=_without_twins)
    except UnicodeDecodeError as error:
        raise _bad(path, PREFIX_BYTES + error.start, "the header is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise _bad(path, PREFIX_BYTES + error.pos, f"the header is not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise _bad(path, PREFIX_BYTES, f"the header is not JSON of the expected kind: {error}") from error
    metadata = found.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in cast("dict[str, Any]", metadata).values()
    ):
        raise _bad(path, PREFIX_BYTES, f"{_METADATA} has to hold texts by name")
    data_at = PREFIX_BYTES + len(text)
    tensors = {name: _entry(name, about, data_at, size, path) for name, about in found.items()}
    _check_lie(tensors, data_at, size, path)
    return Header(MappingProxyType(tensors), MappingProxyType(cast("dict[str, str]", metadata)))


def _entry(name: str, about: Any, data_at: int, size: int, path: str) -> Entry:
    def bad(what: str) -> Corrupt:
        return _bad(path, PREFIX_BYTES, f"tensor {name[:200]!r} {what}")

    if not isinstance(about, dict) or set(cast("dict[str, Any]", about)) != {"dtype", "shape", "data_offsets"}:
        raise bad("has to have a dtype, a shape and data_offsets, and nothing else")
    values = cast("dict[str, Any]", about)
    dtype, shape, offsets = values["dtype"], values["shape"], values["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise bad(f"is of type {str(dtype)[:40]!r}, which is not known here; there are {', '.join(BITS)}")
    if not _are_sizes(shape):
        raise bad("has a shape that is not a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise bad("has data_offsets that are not a begin and an end")
    begin, end = cast("list[int]", offsets)
    if data_at + end > size:
        raise bad(f"ends at byte {data_at + end}, and the file has {size}: it was cut off, or is not whole yet")
    bits = prod(cast("list[int]", shape)) * BITS[dtype]
    if bits % 8 or bits // 8 != end - begin:
        raise bad(f"has {end - begin} bytes (from byte {data_at + begin}), and its type and shape make {bits / 8:g}")
    return Entry(name, dtype, tuple(shape), data_at + begin, data_at + end)


def _check_lie(tensors: Mapping[str, Entry], data_at: int, size: int, path: str) -> None:
    """Each byte of the data belongs to one tensor, and to one alone."""
    at, before = data_at, ""
    for entry in sorted(tensors.values(), key=lambda entry: (entry.start, entry.end)):
        if entry.start < at:
            raise _bad(path, entry.start, f"tensor {entry.name[:200]!r} lies over {before[:200]!r}, which ends at {at}")
        if entry.start > at:
            raise _bad(path, at, f"{entry.start - at} bytes belong to no tensor")
        at, before = entry.end, entry.name
    if at != size:
        raise _bad(path, at, f"{size - at} bytes behind the last tensor belong to none")


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(each) is int and 0 <= each < 2**63 for each in cast("list[object]", value)
    )


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twin = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"{twin[:200]!r} is there twice")
    return found


def _bad(path: str, at: int, what: str) -> Corrupt:
    return Corrupt(f"{path}, byte {at}: {what}. It is not a whole safetensors file; write or upload it again.")
