"""Where a set of data whose size is known is cached, and how much of it. Pure.

The cache's budget is that of all sets together, since they share its folder: how big a set is decides where it lies,
and never narrows the budget, or reading the small set would push out the large one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .access import KIB
from .profile import Value
from .sizing import DataSize, Node, fit, room, size

_WELL = 0.5
_OVERHEAD_BYTES = 12 * KIB
"""What an object takes in memory beside its bytes."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A place that was counted to the end.

    Attributes:
        url: without credentials.
    """

    url: str
    size: DataSize


def fit_data(counted: Counted, node: Node, fixed: Mapping[str, Any]) -> tuple[Value, ...]:
    """The values that fit a set of data, on a node.

    It lies in memory if all of it takes no more than half of what may lie there, so that other sets and the readers
    have room too; or if it lies there already and fits. Otherwise it lies on disk, as much of it as fits; and in
    memory, as much as fits, only where there is no room on a disk.

    Args:
        fixed: the values that are not to be decided here, by name.
    """
    fitted = {value.name: value for value in fit(node)}
    if counted.size.bytes == 0 or "cache_bytes" not in fitted:
        return ()
    disk_bytes: int = fixed.get("cache_bytes", fitted["cache_bytes"].value)
    memory_bytes: int = min(
        fixed.get("memory_bytes", fitted["memory_bytes"].value),
        fixed.get("cache_bytes", fitted["memory_bytes"].value),
        room(node.ram) if node.ram is not None else 0,
    )
    is_there = node.ram is not None and node.ram.cached_bytes >= counted.size.bytes
    needed = counted.size.bytes + counted.size.objects * _OVERHEAD_BYTES
    what = f"{size(counted.size.bytes)} under {counted.url}"
    found: list[Value] = []
    place = fixed.get("cache")
    if place is None:
        if needed <= memory_bytes * _WELL or (is_there and needed <= memory_bytes):
            place, why = "memory", f"there is room for all {what}, and as much again"
        elif disk_bytes:
            place, why = "disk", f"memory, where {size(memory_bytes)} may lie, has not twice the {what}"
        elif memory_bytes:
            place, why = "memory", f"on a disk there is no room for any of the {what}"
        else:
            return ()
        found.append(Value("cache", place, why))
    if place == "none" or "cache_bytes" in fixed:
        return tuple(found)
    if place == "memory":
        found.append(Value("cache_bytes", memory_bytes, _part(memory_bytes, needed, what)))
    else:
        part = _part(disk_bytes, counted.size.bytes, what)
        found.append(Value("cache_bytes", disk_bytes, f"{part}; {fitted['cache_bytes'].reason}"))
    return tuple(found)


def _part(room_bytes: int, needed: int, what: str) -> str:
    if room_bytes >= needed:
        return f"all {what} can stay"
    share = 100 * room_bytes / needed
    shown = f"{share:.0f} %" if share >= 1 else "less than 1 %"
    return f"{shown} of the {what} can stay, and the rest is read from the store each time"
