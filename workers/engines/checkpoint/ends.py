"""Where the bytes of a checkpoint job come from, and where they go to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from ....jobs.checkpoints.restore_folder import RestoreFolder
from ....jobs.rows import RowError
from ....storage.checkpoints.manifest import file_path
from ....storage.errors import ObjectNotFound
from ....storage.flow import Flow
from ....storage.parted.protocol import Parted
from ....storage.ranges import read_object
from ....storage.sources import source_of, version_of
from ....storage.store import Store

_CURE = "submit the job again once the folder is at rest"


class Wrong(Exception):
    """Raised for what is the row's result: it can't be done."""

    def __init__(self, error: RowError) -> None:
        super().__init__(error.message)
        self.error = error


class Origin(Protocol):
    """Where the bytes come from."""

    def read(self, start: int, end: int, flow: Flow) -> bytes:
        """Bytes from `start` to before `end`, all of them. Raises Wrong, Interrupted, StoreUnavailable."""
        ...


class Source:
    """A file of the folder that is saved, as it was when the job was submitted.

    Each read is followed by a look at the file's version, so that what is read is of the version in the job; and as
    every slice is of that version, so is the whole.
    """

    def __init__(self, body: dict[str, Any]) -> None:
        self._fs, folder = source_of(body["source"])
        self._path = f"{folder}/{body['path']}"
        self._size = int(body.get("file_bytes", body["size_bytes"]))
        self._version = body["version"]

    def read(self, start: int, end: int, flow: Flow) -> bytes:
        try:
            data = read_object(self._fs, self._path, start, end, flow)
            self._fs.invalidate_cache(self._path.rpartition("/")[0])
            info = self._fs.info(self._path)
        except FileNotFoundError as error:
            raise Wrong(RowError("source_missing", f"{self._path} is not there (any more)")) from error
        size = int(info["size"])
        if size != self._size or len(data) != end - start:
            said = f"had {self._size} bytes when the job was submitted and {size} when it was copied"
            raise Wrong(RowError("source_changed", f"{self._path} {said}; {_CURE}"))
        if version_of(info) != self._version:
            said = "was written again after the job was submitted"
            raise Wrong(RowError("source_changed", f"{self._path} {said}; {_CURE}"))
        return data


class Committed:
    """A file of a committed step."""

    def __init__(self, store: Store, body: dict[str, Any]) -> None:
        self._store = store
        self._path = file_path(body["name"], body["step"], body["attempt"], body["path"])
        self._named = f"{body['path']} of step {body['step']}"

    def read(self, start: int, end: int, flow: Flow) -> bytes:
        try:
            return self._store.read_range(self._path, start, end, flow)
        except ObjectNotFound as error:
            if (size := self._store.size(self._path)) is None:
                raise Wrong(RowError("missing", f"{self._named} is missing")) from error
            raise Wrong(RowError("corrupt", f"{self._named} has {size} bytes, and no byte {end - 1}")) from error


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
        self._store.replace(path, data)

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
