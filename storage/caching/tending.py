"""What people do with the cache: look, make room, check."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence

from .cached import CachedObject
from .folder import CacheFolder, Entry
from .layout import BLOCK_BYTES
from .place import cache_folder


def existing() -> list[CacheFolder]:
    """The caches that there are on this machine, on disk and in memory. Raises SettingsError."""
    found = [cache_folder(kind)[0] for kind in ("disk", "memory")]
    return [CacheFolder(folder, sys.maxsize) for folder in found if (folder / "objects").is_dir()]


def prune(
    cache: CacheFolder, *, most_bytes: int | None = None, unused_s: float | None = None, really: bool = True
) -> list[Entry]:
    """Remove objects; returns them. Those that are mapped by a running process stay.

    Args:
        most_bytes: remove what was unused for longest, until no more than this is left.
        unused_s: remove what was not used for so long.
        really: False only says which.
    """
    if really:
        cache.count()
    now_s = time.time()
    entries = sorted(cache.entries(), key=lambda entry: entry.use.last_s)
    chosen = [entry for entry in entries if unused_s is not None and now_s - entry.use.last_s >= unused_s]
    if most_bytes is not None:
        left = sum(entry.held_bytes for entry in entries) - sum(entry.held_bytes for entry in chosen)
        gone = {entry.key for entry in chosen}
        for entry in entries:
            if left <= most_bytes:
                break
            if entry.key not in gone:
                chosen.append(entry)
                left -= entry.held_bytes
    return [entry for entry in chosen if not really or cache.remove(entry.key, entry.held_bytes)]


def verify(cache: CacheFolder, entries: Sequence[Entry]) -> Iterator[tuple[Entry, int]]:
    """Read every block; yields each object with how many bytes were not what had been written.

    Those are forgotten, and fetched again when they are wanted.
    """
    for entry in entries:
        cached = CachedObject.open(cache.path_of(entry.key))
        if cached is not None:
            yield entry, len(cached.check()) * BLOCK_BYTES
