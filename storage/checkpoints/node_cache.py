"""Files of checkpoints in this node's cache: put there by a warm-up, taken from there by whoever reads next.

They lie there under the names that `serving::` gives them (store, path, ETag), so its readers find them. A restore,
which knows by the manifest what each file has to be, takes them without asking the store at all.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from ...profiles.access import Access
from ...profiles.sizing import size
from ..caching.layout import BLOCK_BYTES
from ..caching.opening import StoreCache, cache_for
from ..caching.through import CachedSource
from ..errors import Corrupt, NotAllowedNow
from ..filesystem import ProfiledFileSystem, ServingFileSystem
from ..flow import Flow
from ..reading.origin import Progress
from ..store import Store
from .manifest import manifest_path

_PATIENCE_S = 30.0
"""So long somebody else may be fetching the same range."""


class WarmFile:
    """A file of a checkpoint, as far as it is in the cache. Any thread may use it.

    Attributes:
        path: as the store's file system names it.
    """

    def __init__(self, source: CachedSource) -> None:
        self.path = source.path
        self.size_bytes = source.version.size
        self._source = source

    def read(self, start: int, end: int) -> bytearray | None:
        """Bytes that are there, all of them and as they were written; else None."""
        data = bytearray(end - start)
        return data if self._source.at_hand(start, memoryview(data)) else None

    def fetch(self, start: int, end: int, progress: Progress) -> bool:
        """Bring what is missing of a range; whether there was room for all of it."""
        kept: list[bool] = []
        self._source.bring(
            start, end, progress, patience_s=_PATIENCE_S, arrived=lambda _at, _data, is_kept: kept.append(is_kept),
            has_room=True,
        )  # fmt: skip
        return all(kept)

    def put(self, start: int, data: bytes, flow: Flow) -> bool:
        """Keep bytes that came in another way, from the beginning of a block on; whether there was room for them.

        Raises Interrupted; what was kept by then stays.
        """
        view, at = memoryview(data), 0
        while at < len(view):
            flow.check()
            length = max(BLOCK_BYTES, flow.chunk_bytes // BLOCK_BYTES * BLOCK_BYTES)
            self._source.keep(start + at, view[at : at + length], has_room=True)
            at += length
        return not self._source.cached.missing(start, start + len(data))


class NodeCache:
    """The part of this node's cache that is for one store."""

    def __init__(self, fs: ProfiledFileSystem, access: Access, cache: StoreCache) -> None:
        self._fs = fs
        self._access = access
        self._cache = cache

    @property
    def folder(self) -> Path:
        return self._cache.folder.folder

    @property
    def id(self) -> str:
        """Tells this cache from that of another node."""
        path = self.folder / "id"
        while True:
            try:
                return path.read_text()
            except FileNotFoundError:
                aside = path.with_name(f"id.{secrets.token_hex(4)}")
                aside.write_text(secrets.token_hex(8))
                try:
                    os.link(aside, path)
                except FileExistsError:
                    pass
                finally:
                    aside.unlink()

    def file(self, path: str, size_bytes: int) -> WarmFile:
        """A file with at least a byte; the store is asked what it is.

        Raises:
            Corrupt: it is missing, or has another size.
            NotAllowedNow: it can't be cached.
        """
        try:
            source, _ = self._fs.reader.first(path, self._access, 1, is_use=False)
        except FileNotFoundError as error:
            raise Corrupt(f"{path} is missing in the store") from error
        if source.version.size != size_bytes:
            raise Corrupt(f"{path} has {source.version.size} bytes, not {size_bytes}")
        if not isinstance(source, CachedSource):
            raise NotAllowedNow(
                f"{path} can't be cached: its name is too long, or the cache in {self.folder} is broken."
            )
        return WarmFile(source)

    def lacking_bytes(self, files: Mapping[str, int]) -> int:
        """How much of files is not there yet, by their sizes; nothing is asked of the store."""
        return sum(size_bytes - self._held_bytes(path, size_bytes) for path, size_bytes in files.items())

    def make_room(self, files: Mapping[str, int], what: str) -> None:
        """See that there is room for what is not there yet of some files, before any of it is fetched.

        Args:
            files: sizes by path.
            what: they are, for people.

        Raises:
            NotAllowedNow: the cache may not hold so much; or what is there is in use, and does not leave.
        """
        lacking, whole = self.lacking_bytes(files), sum(files.values())
        folder = self._cache.folder
        bound = folder.bound_bytes
        if not lacking:
            return
        if whole > bound:
            raise NotAllowedNow(
                f"{what} has {size(whole)} ({whole:,} bytes), and the cache of this node, {folder.folder}, may hold "
                f"{size(bound)} ({bound:,} bytes). Nothing was fetched. Give it a larger disk (HOLDSHORT_CACHE names a "
                f"folder), or restore into a folder."
            )
        order = {path: place for place, path in enumerate(files)}
        path = next(path for path, size_bytes in files.items() if self._held_bytes(path, size_bytes) < size_bytes)
        if not self._has_room(path, files[path], lacking, order):
            raise NotAllowedNow(
                f"{what} needs {size(lacking)} more in the cache of this node, {folder.folder}. It may hold "
                f"{size(bound)} and has {size(folder.used_bytes)} of what was used lately, which does not leave. "
                f"Nothing was fetched. `holdshort cache prune --to {max(0, bound - lacking)}` makes room."
            )

    def parts(self, path: str, size_bytes: int, part_bytes: int) -> Iterator[bytes] | None:
        """A file's bytes, if all of them are there; without asking the store, so the reader has to know its sum.

        Ends early when some of it leaves meanwhile.
        """
        cached = self._cache.known(path, size_bytes)
        if cached is None or cached.missing(0, size_bytes):
            return None
        cached.used(time.time())

        def each() -> Iterator[bytes]:
            for start in range(0, size_bytes, part_bytes):
                part = bytearray(min(part_bytes, size_bytes - start))
                if not cached.read_into(start, memoryview(part)):
                    return
                yield bytes(part)

        return each()

    def drop(self, path: str, size_bytes: int) -> None:
        """Let go of a file that is not what it has to be."""
        cached = self._cache.known(path, size_bytes)
        if cached is not None:
            self._cache.folder.drop(cached.subject)

    def _held_bytes(self, path: str, size_bytes: int) -> int:
        cached = self._cache.known(path, size_bytes) if size_bytes else None
        return 0 if cached is None else cached.held_bytes()

    def _has_room(self, path: str, size_bytes: int, lacking: int, order: Mapping[str, int]) -> bool:
        folder = self._cache.folder
        if folder.used_bytes + lacking <= folder.bound_bytes:
            return True
        source, _ = self._fs.reader.first(path, self._access, 1, is_use=False)
        return isinstance(source, CachedSource) and source.make_room(lacking, order)


def cache_of(store: Store, name: str) -> NodeCache:
    """This node's cache for the store of a run. Raises NotAllowedNow saying why there is none, and SettingsError."""
    located = store.located(manifest_path(name, 0))
    if located is None:
        raise NotAllowedNow(
            f"The store {store.url} lies on this machine, where nothing is cached of it. Read it as it is, or restore "
            f"into a folder."
        )
    fs = ServingFileSystem(target_protocol=located.protocol, target_options=dict(located.options))
    plan = fs.explain(located.path)[1]
    cache = cache_for(fs.fs, plan.access)
    if cache is None:
        why = next((value.reason for value in plan.applied if value.name == "cache_bytes"), "")
        raise NotAllowedNow(f"This node has no cache to warm ({why}). HOLDSHORT_CACHE names a folder for it.")
    return NodeCache(fs, plan.access, cache)


def cached_parts(store: Store, name: str, path: str, size_bytes: int, part_bytes: int) -> Iterator[bytes] | None:
    """A file of a run from this node's cache, if it has one and all bytes are there; see NodeCache.parts."""
    located = store.located(path)
    if located is None or not size_bytes:
        return None
    try:
        return cache_of(store, name).parts(located.path, size_bytes, part_bytes)
    except NotAllowedNow:
        return None
