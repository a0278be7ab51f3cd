"""Where a test's store is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from holdshort.storage.opening import open_store
from holdshort.storage.store import Store


@dataclass(frozen=True)
class Place:
    """Where a store is, and how to open it."""

    kind: str
    url: str
    fsync: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def open(self) -> Store:
        return open_store(self.url, fsync=self.fsync, storage_options=self.options)
