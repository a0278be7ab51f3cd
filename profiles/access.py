"""The values that say how bytes move between a store and a process. Sizes are bytes, times seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf
from typing import Any, Literal, cast

KIB, MIB, GIB = 2**10, 2**20, 2**30

ReadAhead = Literal["none", "adaptive", "whole"]
Cache = Literal["none", "disk", "memory"]
WhenReplaced = Literal["error", "old version"]


@dataclass(frozen=True, slots=True)
class Access:
    """All values of one access, each of them set.

    Attributes:
        part_bytes: size of one request when much is moved; also how often a copy looks whether it should yield.
        read_ahead: what is fetched before it is asked for: nothing; more and more while reading goes on in order; or
            the whole object as soon as it is opened.
        read_ahead_bytes: how much is fetched ahead at most, for each open file.
        gap_bytes: ranges with no more than this between them are fetched by one request.
        connections: how many requests of this process are under way at once at most; how many pay is found on line.
        freshness_s: for how long an object counts as unchanged after the store said what it is; inf: for as long as
            the process lives.
        memory_bytes: what all open files of this process may hold in memory.
        cache: where blocks of objects are kept for the next reader on this machine: nowhere, on disk, or in memory that
            all processes share. Objects of this machine's own disk are never kept.
        cache_bytes: what the cache may take of it, by all processes together.
        when_replaced: what a reader gets of an object that is replaced while it is open: an error, or what it was when
            it was opened, which takes a store that keeps old versions.

    Raises:
        ValueError: a value is out of bounds; says which, and what the bounds are.
    """

    part_bytes: int = 8 * MIB
    read_ahead: ReadAhead = "adaptive"
    read_ahead_bytes: int = 64 * MIB
    gap_bytes: int = 256 * KIB
    connections: int = 32
    freshness_s: float = 0.0
    memory_bytes: int = 512 * MIB
    cache: Cache = "disk"
    cache_bytes: int = 16 * GIB
    when_replaced: WhenReplaced = "error"

    def __post_init__(self) -> None:
        for name, (least, most) in _BOUNDS.items():
            found: Any = getattr(self, name)
            if isinstance(found, bool) or not isinstance(found, int | float) or not least <= found <= most:
                raise ValueError(f"{name} is {found!r}; it has to be a number from {least:g} to {most:g}")
            if name != "freshness_s" and not isinstance(found, int):
                raise ValueError(f"{name} is {found!r}; it has to be a whole number of bytes or requests")
        for name, choices in _CHOICES.items():
            if (found := getattr(self, name)) not in choices:
                raise ValueError(f"{name} is {found!r}; it has to be one of {', '.join(choices)}")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Access:
        """From values by name; those left out have their defaults. Raises ValueError."""
        for name in values:
            if name not in NAMES:
                raise ValueError(f"there is no value {name!r}; there are {', '.join(NAMES)}")
        return cls(**cast("Any", values))


NAMES = tuple(field.name for field in fields(Access))
_BOUNDS: Mapping[str, tuple[float, float]] = {
    "part_bytes": (64 * KIB, GIB),
    "read_ahead_bytes": (0, 64 * GIB),
    "gap_bytes": (0, GIB),
    "connections": (1, 1024),
    "freshness_s": (0.0, inf),
    "memory_bytes": (16 * MIB, 4096 * GIB),
    "cache_bytes": (0, 2**20 * GIB),
}
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "read_ahead": ("none", "adaptive", "whole"),
    "cache": ("none", "disk", "memory"),
    "when_replaced": ("error", "old version"),
}
