"""What the machine, or the container that we run in, has of memory and disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from ..profiles.sizing import Disk, Node
from .caching.folder import used_bytes
from .caching.place import Kind, usable_folder

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
_NO_LIMIT = 2**60
"""cgroup v1 says "no limit" by a number near 2**63."""


def this_node(*, proc: Path = _PROC, cgroups: Path = _CGROUPS) -> Node:
    """Memory by the strictest cgroup above this process, of either version, or the machine's."""
    total, available = _machine(proc)
    found = Node(total, total - available, "this machine")
    for limit, used in _limits(proc, cgroups):
        if limit - used < found.memory_bytes - found.memory_used_bytes:
            found = Node(limit, used, "the limit of this container")
    return found


def cache_disk(kind: Kind = "disk") -> Disk:
    """The disk, or RAM disk, that the cache lies on, or would.

    Raises:
        SettingsError: a folder was named where none can lie.
    """
    folder, why = usable_folder(kind)
    if why:
        return Disk(str(folder), unusable=why)
    stat = os.statvfs(folder)
    return Disk(str(folder), stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize, used_bytes(folder))


def _machine(proc: Path) -> tuple[int, int]:
    values: dict[str, int] = {}
    for line in (proc / "meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        values[name] = int(rest.split()[0]) * 1024
    return values["MemTotal"], values.get("MemAvailable", values["MemFree"])


def _limits(proc: Path, cgroups: Path) -> Iterator[tuple[int, int]]:
    """(limit, used) of each cgroup that we are in, and of those above it."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            root, limit, used, cache = cgroups, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit = cgroups / "memory", "memory.limit_in_bytes"
            used, cache = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        # Inside a container the path may be the host's, which is not there: the mount itself is the container's then.
        within = PurePosixPath(path.lstrip("/"))
        for folder in (within, *within.parents):
            yield from _limit(root / folder, limit, used, cache)


def _limit(folder: Path, limit: str, used: str, cache: str) -> Iterator[tuple[int, int]]:
    with suppress(OSError, ValueError):  # not there, or "max"
        most = int((folder / limit).read_text())
        if most < _NO_LIMIT:
            in_use = int((folder / used).read_text())
            yield most, max(0, in_use - _stat(folder / "memory.stat", cache))


def _stat(path: Path, name: str) -> int:
    """Pages of files that were read long ago go first when memory is short, so they count as free."""
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
