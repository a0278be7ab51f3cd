"""Where the bytes of a checkpoint job go to."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol

from ....jobs.checkpoints.restore_folder import RestoreFolder
from ....storage.flow import Flow
from ....storage.parted.protocol import Parted
from ....storage.store import Store


class Destination(Protocol):
    """Where the bytes go to."""

    @property
    def parted(self) -> Parted | None: ...

    def replace(self, path: str, data: bytes, flow: Flow) -> None:
        """Write a whole file."""
        ...

    def upload(self, path: str, parts: Iterable[bytes]) -> None:
        """Write a whole file where it can't be written in parts."""
        ...

    def holds(self, path: str) -> int | None:
        """How many bytes of a file are there from before; None: it is not there."""
        ...

    def read(self, path: str, start: int, end: int, flow: Flow) -> bytes:
        """What is there."""
        ...


class InStore:
    """Files of a step, in the job's own store or in another one."""

    def __init__(self, store: Store, *, may_hold: bool) -> None:
        self._store = store
        self._may_hold = may_hold
        self.parted = store.parted

    def replace(self, path: str, data: bytes, flow: Flow) -> None:
        flow.check()
        begin = time.perf_counter()
        self._store.replace(path, data)
        flow.moved(len(data), time.perf_counter() - begin)

    def upload(self, path: str, parts: Iterable[bytes]) -> None:
        self._store.upload(path, parts)

    def holds(self, path: str) -> int | None:
        return self._store.size(path) if self._may_hold else None

    def read(self, path: str, start: int, end: int, flow: Flow) -> bytes:
        return self._store.read_range(path, start, end, flow)


class InFolder:
    """Files of a folder of this host."""

    def __init__(self, folder: RestoreFolder) -> None:
        self._folder = folder
        self.parted = folder.parted

    def replace(self, path: str, data: bytes, flow: Flow) -> None:
        self._folder.replace(path, data, flow)

    def upload(self, path: str, parts: Iterable[bytes]) -> None:
        raise AssertionError("folders are written in parts")

    def holds(self, path: str) -> int | None:
        return None

    def read(self, path: str, start: int, end: int, flow: Flow) -> bytes:
        raise AssertionError("nothing is there from before")
