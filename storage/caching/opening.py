"""The caches of this process."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

from ...profiles.access import Access
from ..reading.buffers import Buffers
from ..reading.origin import Source, Version
from .cached import CachedObject
from .folder import CacheFolder
from .layout import Subject
from .place import usable_folder
from .through import CachedSource

log = logging.getLogger(__name__)

_SECRETS = ("key", "secret", "token", "password", "credential", "auth", "session")
_LOCAL = {"file", "local", "memory"}
_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST")

# No lock guards these: a child that is forked while it is held would wait for ever.
_open: dict[tuple[int, Path, int], CacheFolder] = {}
_told: set[Path] = set()


class StoreCache:
    """The part of a cache that is for one store."""

    def __init__(self, folder: CacheFolder, store: str) -> None:
        self.folder = folder
        self._store = store

    def version(self, path: str, since_s: float) -> Version | None:
        """What an object was when any process asked last, if that was not before `since_s` (since the epoch)."""
        return self.folder.version(self._store, path, since_s)

    def remember(self, path: str, version: Version) -> None:
        """The store has just said what an object is."""
        self.folder.remember(self._store, path, version)

    def holds_first(self, path: str, length: int) -> Version | None:
        """What an object was, as the store has described it last, however long ago, if so many first bytes are here."""
        version = self.folder.version(self._store, path, 0.0)
        if version is None or not version.tag or not version.size:
            return None
        cached = self.folder.find(Subject(self._store, path, version.size, version.tag))
        return None if cached is None or cached.missing(0, length) else version

    def known(self, path: str, size: int | None = None) -> CachedObject | None:
        """What is there of an object, as the store has described it last, however long ago; made by nobody here.

        Only for whoever can tell by other means whether it is the right content.

        Args:
            size: of the content that is wanted; any, by default.
        """
        version = self.folder.version(self._store, path, 0.0)
        if version is None or not version.tag or not version.size or size not in (None, version.size):
            return None
        return self.folder.find(Subject(self._store, path, version.size, version.tag))

    def forget(self, path: str) -> None:
        """The object is another one now."""
        self.folder.forget(self._store, path)

    def asking(self, path: str) -> AbstractContextManager[None]:
        """Held while the store is asked for an object, so that others of this machine wait for what it says."""
        return self.folder.asking(self._store, path)

    def source(self, behind: Source, buffers: Buffers, gap_bytes: int, *, is_use: bool = True) -> Source:
        """The way to an object's bytes, through the cache if it can be cached."""
        version = behind.version
        if not version.tag or not version.size:
            return behind
        cached = self.folder.object(Subject(self._store, behind.path, version.size, version.tag), is_use=is_use)
        return behind if cached is None else CachedSource(behind, cached, self.folder, buffers, gap_bytes)


def cache_for(fs: Any, access: Access) -> StoreCache | None:
    """The cache that an access asks for; None if it asks for none, or there is no place for it, which is logged once.

    Raises:
        SettingsError: a folder was named where no cache can lie.
    """
    if access.cache == "none" or access.cache_bytes == 0:
        return None
    store = store_name(fs)
    if not store:
        return None
    folder = _folder(access)
    return None if folder is None else StoreCache(folder, store)


def store_name(fs: Any) -> str:
    """What tells a file system's store from others, without any secret; "" for one that is not worth a cache."""
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    if protocol in _LOCAL:
        return ""
    ends = {name: os.environ[name] for name in _ENDPOINTS if name in os.environ}
    told = json.dumps(
        [type(fs).__name__, _without_secrets(fs.storage_args), _without_secrets(fs.storage_options), ends],
        sort_keys=True, default=lambda each: type(each).__name__,
    )  # fmt: skip
    return f"{protocol}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def _folder(access: Access) -> CacheFolder | None:
    assert access.cache != "none"
    most_bytes = min(access.cache_bytes, access.memory_bytes) if access.cache == "memory" else access.cache_bytes
    folder, why = usable_folder(access.cache)
    if why:
        if folder not in _told:
            _told.add(folder)
            log.warning("Nothing is cached in %s: %s. HOLDSHORT_CACHE can name another folder.", folder, why)
        return None
    # A forked child takes none of its parent's: their locks are not its own.
    key = (os.getpid(), folder, most_bytes)
    found = _open.get(key)
    return found if found is not None else _open.setdefault(key, CacheFolder(folder, most_bytes))


def _without_secrets(value: Any) -> Any:
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value)
        return {
            name: _without_secrets(each)
            for name, each in items.items()
            if not any(word in name.lower() for word in _SECRETS)
        }
    if isinstance(value, list | tuple):
        return [_without_secrets(each) for each in cast("Iterable[Any]", value)]
    return value
