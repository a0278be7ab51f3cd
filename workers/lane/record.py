"""How a source's word lies in its memory map. Pure: bytes to values and back.

The map is a latch: two slots, and a sequence number that says which one holds. A writer fills the other slot and
then sets the number, in one aligned store of 8 bytes; a reader takes the number, copies the slot, and takes the
number again. So a writer that is stopped or killed in the middle leaves the last word readable, and nobody ever waits.
(The idea is the Linux kernel's seqcount_latch_t.) Each slot also carries its own number and a checksum, so that a copy
is whole even where a processor lets stores be seen in another order.

    0     header: magic, version, beat, pid, boot id, names        written once, before the map is found by anyone
    448   sequence number of the word that holds
    456   sequence number at which an operator dismissed the source
    512   slot of even numbers
    1280  slot of odd numbers
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import Literal, cast
from zlib import crc32

from .reading import NO_FIGURES, Figures

MAGIC = b"HOLDLANE"
VERSION = 1
SIZE = 4096
SEQUENCE_AT, DISMISSED_AT = 448, 456
_SLOTS_AT = (512, 1280)
_NAME_BYTES, _REASON_BYTES = 64, 512
_HEADER = struct.Struct(f"<8sIIQ16s{_NAME_BYTES}s{_NAME_BYTES}s{_NAME_BYTES}s")
_WORD = struct.Struct(f"<QqqqdddddIBH{_REASON_BYTES}s")
_CHECK = struct.Struct("<I")
SLOT_BYTES = _WORD.size + _CHECK.size

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,62}")
"""What a source, a device or a host may be called."""

State = Literal["clear", "hold", "closed"]
_STATES: tuple[State, ...] = ("clear", "hold", "closed")
_NONE = -1
"""Stands for "no such time": monotonic nanoseconds are never negative."""


@dataclass(frozen=True, slots=True)
class Header:
    """Whose map this is.

    Attributes:
        name, device, host: device "" for all of the pool's accelerators; host "" for this one.
        beat_ns: how often the source beats.
        boot: which boot of the host the times belong to.
    """

    name: str
    device: str
    host: str
    pid: int
    beat_ns: int
    boot: bytes


@dataclass(frozen=True, slots=True)
class Word:
    """What a source says. Times are monotonic nanoseconds of this host.

    Attributes:
        beat_ns: when the source was last heard.
        since_ns: when this state began.
        until_ns: when a hold ends by itself; None when it does not.
    """

    state: State
    headroom: float
    reason: str
    beat_ns: int
    since_ns: int
    until_ns: int | None = None
    figures: Figures = NO_FIGURES


def pack_header(header: Header) -> bytes:
    """A header's bytes; names that are too long are cut."""
    names = (_cut(name, _NAME_BYTES) for name in (header.name, header.device, header.host))
    return _HEADER.pack(MAGIC, VERSION, header.pid, header.beat_ns, header.boot, *names)


def unpack_header(raw: bytes) -> Header | str:
    """The header of a map; if it can't be read, why."""
    if len(raw) < SIZE:
        return f"it has {len(raw)} bytes instead of {SIZE}"
    magic, version, pid, beat_ns, boot, name, device, host = _HEADER.unpack_from(raw)
    if magic != MAGIC:
        return "it is no lane map"
    if version != VERSION:
        return f"it is of version {version}, and this program reads version {VERSION}"
    try:
        names = [_text(part) for part in (name, device, host)]
    except UnicodeDecodeError:
        return "its names are no text"
    return Header(names[0], names[1], names[2], pid, beat_ns, boot)


def slot_of(sequence: int) -> slice:
    """Where the word of this number lies."""
    start = _SLOTS_AT[sequence & 1]
    return slice(start, start + SLOT_BYTES)


def pack_word(word: Word, sequence: int) -> bytes:
    """The content of a slot."""
    f = word.figures
    reason = _cut(word.reason, _REASON_BYTES)
    raw = _WORD.pack(
        sequence, word.beat_ns, word.since_ns, _NONE if word.until_ns is None else word.until_ns, word.headroom,
        *(math.nan if v is None else v for v in (f.first_byte_p50_s, f.first_byte_p95_s, f.gap_p50_s, f.gap_p95_s)),
        f.in_flight, _STATES.index(word.state), len(reason), reason,
    )  # fmt: skip
    return raw + _CHECK.pack(crc32(raw))


def unpack_word(raw: bytes, sequence: int) -> Word | None:
    """The word in a slot's bytes; None if they are not the whole word of that number."""
    if _CHECK.unpack_from(raw, _WORD.size)[0] != crc32(raw[: _WORD.size]):
        return None
    said, beat_ns, since_ns, until_ns, headroom, f1, f2, g1, g2, live, state, length, reason = _WORD.unpack_from(raw)
    if said != sequence:
        return None
    state = cast("int", state)
    figures = Figures(live, _known(f1), _known(f2), _known(g1), _known(g2))
    until = None if until_ns == _NONE else until_ns
    return Word(_STATES[state], headroom, reason[:length].decode(), beat_ns, since_ns, until, figures)


def _known(seconds: float) -> float | None:
    return None if math.isnan(seconds) else seconds


def _cut(text: str, size: int) -> bytes:
    """UTF-8 of at most so many bytes, cut between characters."""
    raw = text.encode(errors="replace")
    return raw if len(raw) <= size else raw[: size - 3].decode(errors="ignore").encode() + "…".encode()


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode()
