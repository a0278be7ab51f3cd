"""What of the world outside its own store a checkpoint job can reach from this process."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from ...storage.opening import open_store
from ...storage.store import Store
from ..settings import Settings


class Places:
    """Stores to replicate to, and folders to restore to.

    Args:
        options: fsspec options of other stores, by the beginning of their URL (`replicas` of the settings).
        is_worker: whether this is a worker, which sees the folders that jobs name, and may wait for a store.
    """

    def __init__(self, options: Mapping[str, dict[str, Any]], *, is_worker: bool = False) -> None:
        self._options = options
        self.is_worker = is_worker
        self._lock = threading.Lock()
        self._opened: dict[str, Store] = {}

    @classmethod
    def of(cls, settings: Settings, *, is_worker: bool = False) -> Places:
        return cls(settings.replicas, is_worker=is_worker)

    def store(self, url: str) -> Store:
        """Another store, opened once. Raises StoreRefused, StoreUnavailable, MissingExtra."""
        with self._lock:
            if url not in self._opened:
                self._opened[url] = open_store(url, storage_options=self.options_of(url))
            return self._opened[url]

    def options_of(self, url: str) -> dict[str, Any]:
        """The options that were given for what this URL begins with."""
        fitting = [known for known in self._options if f"{url}/".startswith(f"{known.rstrip('/')}/")]
        return self._options[max(fitting, key=len)] if fitting else {}
