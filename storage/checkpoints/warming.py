"""Checkpoints into this node's cache, ahead of whoever reads them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..checksums import crc32c
from ..crc32c import of_slices
from ..errors import Corrupt, NotAllowedNow, ObjectNotFound
from ..parted.cutting import PIECE_BYTES
from ..reading.origin import Abandoned
from ..store import Store
from .manifest import CopiedFile, Manifest, file_path, read_manifest, steps
from .node_cache import NodeCache, WarmFile, cache_of

_AT_ONCE = 16
_TRIES = 3
"""What is in the cache can leave, or turn out wrong, before it was looked at."""


@dataclass(frozen=True, slots=True)
class Warmed:
    """What is in this node's cache now.

    Attributes:
        cache: the cache's folder.
        fetched_bytes: what had to be fetched; the rest was there.
        passed_over: newer steps that are not whole, each with what is wrong.
    """

    manifest: Manifest
    cache: Path
    fetched_bytes: int
    passed_over: tuple[tuple[int, str], ...]


def warm(
    store: Store,
    name: str,
    *,
    step: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Warmed:
    """Bring a checkpoint into this node's cache; each file there has the manifest's CRC32C.

    Args:
        step: which one; None: the newest that is whole.
        progress: told how many bytes of how many are there; from several threads, one at a time.

    Raises:
        NotAllowedNow: this node has no cache for the store, or the checkpoint has no room in it; nothing was fetched.
        ObjectNotFound: no such step, or no step at all.
        Corrupt: the step is not whole, or none is.
    """
    cache = cache_of(store, name)
    wanted = [step] if step is not None else sorted(steps(store, name), reverse=True)
    if not wanted:
        raise ObjectNotFound(f"The store {store.url} holds no checkpoint of {name}.")
    passed_over: list[tuple[int, str]] = []
    for number in wanted:
        try:
            manifest = read_manifest(store, name, number)
            fetched = _warm(store, cache, manifest, progress)
            return Warmed(manifest, cache.folder, fetched, tuple(passed_over))
        except Corrupt as error:
            if step is not None:
                raise
            passed_over.append((number, str(error)))
    tried = "; ".join(f"step {number}: {why}" for number, why in passed_over)
    raise Corrupt(f"No step of {name} in {store.url} is whole. {tried}")


def sizes_of(store: Store, manifest: Manifest) -> dict[str, int]:
    """How large each file is, by the path that the store's file system has for it."""
    return {path_of(store, manifest, file): file.size_bytes for file in manifest.files if file.size_bytes}


def path_of(store: Store, manifest: Manifest, file: CopiedFile) -> str:
    """A file of a store that is not on this machine, as the store's file system names it."""
    found = store.located(file_path(manifest.name, manifest.step, manifest.attempt, file.path))
    assert found is not None
    return found.path


def _warm(store: Store, cache: NodeCache, manifest: Manifest, progress: Callable[[int, int], None]) -> int:
    cache.make_room(sizes_of(store, manifest), f"step {manifest.step} of {manifest.name}")
    told = _Told(sum(file.size_bytes for file in manifest.files), progress)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="warm") as pool:
        try:
            files = [file for file in manifest.files if file.size_bytes]
            opening = [pool.submit(cache.file, path, size) for path, size in sizes_of(store, manifest).items()]
            opened = [each.result() for each in opening]
            coming = [
                [
                    pool.submit(_brought, warm, start, min(start + PIECE_BYTES, warm.size_bytes), told)
                    for start in range(0, warm.size_bytes, PIECE_BYTES)
                ]
                for warm in opened
            ]
            for file, warm, pieces in zip(files, opened, coming, strict=True):
                found = f"{of_slices(piece.result() for piece in pieces):08x}"
                if found != file.crc32c:
                    cache.drop(warm.path, warm.size_bytes)
                    raise Corrupt(f"{file.path} has CRC32C {found}, not {file.crc32c}")
        except BaseException:
            told.stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return told.fetched_bytes


def _brought(warm: WarmFile, start: int, end: int, told: _Told) -> tuple[int, int]:
    """The (CRC32C, bytes) of a piece, once it is in the cache; by what is there, not by what has come."""
    for _ in range(_TRIES):
        data = warm.read(start, end)
        if data is not None:
            told.at_hand(end - start)
            return crc32c(data), len(data)
        if not warm.fetch(start, end, told.came()):
            break
    raise NotAllowedNow(
        f"The cache of this node has no room any more for {warm.path}; others have filled it meanwhile. What has come "
        f"is there. Make room (`holdshort cache prune`) and do it again."
    )


class _Told:
    """Counts what has come, and what is at hand, for whoever watches."""

    def __init__(self, total: int, progress: Callable[[int, int], None]) -> None:
        self.stop = threading.Event()
        self.fetched_bytes = 0
        self._total, self._progress = total, progress
        self._lock = threading.Lock()
        self._done = 0

    def came(self) -> Callable[[int], None]:
        """To be told how much one request has brought; ends it once nobody wants it any more."""
        before = 0

        def now(so_far: int) -> None:
            nonlocal before
            if self.stop.is_set():
                raise Abandoned
            with self._lock:
                self.fetched_bytes += so_far - before
            before = so_far

        return now

    def at_hand(self, more: int) -> None:
        with self._lock:
            self._done += more
            self._progress(self._done, self._total)
