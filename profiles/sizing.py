"""How much of a node reads and their cache may take, and how much data there is. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from .access import GIB, MIB
from .profile import Value

_SHARE = 0.25
_LEAST, _MOST = 64 * MIB, 8 * GIB
_DISK_SHARE, _DISK_LEFT = 0.75, 0.1
_PLACE = Value("cache", "disk", "whoever reads it next on this machine, in the next epoch say, finds it there")


@dataclass(frozen=True, slots=True)
class Disk:
    """What the disk of the cache has.

    Attributes:
        cached_bytes: what the cache takes of it already.
        unusable: why no cache can lie there; "" if one can.
    """

    folder: str
    total_bytes: int = 0
    free_bytes: int = 0
    cached_bytes: int = 0
    unusable: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """What a machine, or the container that we run in, has.

    Attributes:
        memory_bytes: the limit of the container, or what the machine has.
        memory_used_bytes: of it, and not given back on demand.
        memory_origin: where that limit comes from, for people.
        disk: the cache's; None: it was not looked at.
        ram: the RAM disk, where what is cached in memory lies; None: it was not looked at.
    """

    memory_bytes: int
    memory_used_bytes: int
    memory_origin: str
    disk: Disk | None = None
    ram: Disk | None = None


@dataclass(frozen=True, slots=True)
class DataSize:
    """How much lies under a URL.

    Attributes:
        objects: how many objects; at least so many, if it was not counted to the end.
        bytes: what they hold; at least so much, likewise.
        is_whole: whether it was counted to the end.
        scanned_at: when, in seconds since the epoch.
    """

    objects: int
    bytes: int
    is_whole: bool
    scanned_at: float


def fit(node: Node) -> tuple[Value, ...]:
    """The values that fit the node."""
    left = max(0, node.memory_bytes - node.memory_used_bytes)
    share = int(left * _SHARE)
    wanted = min(max(share, _LEAST), _MOST)
    free = f"{node.memory_origin} leaves {size(left)} free"
    if wanted > share:
        why = f"the least that is of use; {free}"
    elif wanted < share:
        why = f"more is of no use; {free}"
    else:
        why = f"a quarter of what is free: {free}"
    memory = Value("memory_bytes", wanted, why)
    return (memory,) if node.disk is None else (memory, _PLACE, _cache(node.disk))


def room(disk: Disk) -> int:
    """What a cache may take of a disk; 0 where none can lie."""
    if disk.unusable:
        return 0
    usable = disk.free_bytes + disk.cached_bytes
    return max(0, min(int(usable * _DISK_SHARE), usable - int(disk.total_bytes * _DISK_LEFT)))


def _cache(disk: Disk) -> Value:
    if disk.unusable:
        return Value("cache_bytes", 0, f"there is no cache in {disk.folder}: {disk.unusable}")
    cached = f", and the cache has {size(disk.cached_bytes)}" if disk.cached_bytes else ""
    why = f"three quarters, less what keeps a tenth of the disk free: {disk.folder} has {size(disk.free_bytes)} free"
    return Value("cache_bytes", room(disk), why + cached)


def size(amount: float) -> str:
    """Bytes for people: "1.5 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < 1024:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.3g} {unit}"
        amount /= 1024
    return f"{amount:.3g} TiB"
