"""Where the bytes of a copy come from: a folder, or a committed step. A file is read as it was, or not at all."""

from __future__ import annotations

from typing import Any, Protocol

from ..errors import ObjectNotFound, Unreadable
from ..flow import Flow
from ..ranges import read_object
from ..sources import source_of, version_of
from ..store import Store
from .manifest import file_path

_CURE = "copy it again once the folder is at rest"


class Origin(Protocol):
    """Where the bytes come from."""

    def read(self, start: int, end: int, flow: Flow) -> bytes:
        """Bytes from `start` to before `end`, all of them.

        Raises Unreadable, Interrupted, StoreUnavailable, and what the file system of a folder does.
        """
        ...


class Source:
    """A file of a folder, as it was when it was listed.

    Each read is followed by a look at the file's version, so what was read is of the version that was listed; and as
    every slice is of that version, so is the whole.

    Args:
        folder: a path, or an fsspec URL.
        path: of the file in it.
        size_bytes, version: as they were then.
    """

    def __init__(self, folder: str, path: str, size_bytes: int, version: str) -> None:
        self._fs, base = source_of(folder)
        self._path = f"{base}/{path}"
        self._size = size_bytes
        self._version = version

    def read(self, start: int, end: int, flow: Flow) -> bytes:
        try:
            data = read_object(self._fs, self._path, start, end, flow)
            self._fs.invalidate_cache(self._path.rpartition("/")[0])
            info: dict[str, Any] = self._fs.info(self._path)
        except FileNotFoundError as error:
            raise Unreadable("source_missing", f"{self._path} is not there (any more)") from error
        size = int(info["size"])
        if size != self._size or len(data) != end - start:
            said = f"had {self._size} bytes when the copy was asked for, and {size} when it was made"
            raise Unreadable("source_changed", f"{self._path} {said}; {_CURE}")
        if version_of(info) != self._version:
            said = "was written again after the copy was asked for"
            raise Unreadable("source_changed", f"{self._path} {said}; {_CURE}")
        return data


class Committed:
    """A file of a committed step."""

    def __init__(self, store: Store, name: str, step: int, attempt: str, path: str) -> None:
        self._store = store
        self._path = file_path(name, step, attempt, path)
        self._named = f"{path} of step {step}"

    def read(self, start: int, end: int, flow: Flow) -> bytes:
        try:
            return self._store.read_range(self._path, start, end, flow)
        except ObjectNotFound as error:
            if (size := self._store.size(self._path)) is None:
                raise Unreadable("missing", f"{self._named} is missing") from error
            raise Unreadable("corrupt", f"{self._named} has only {size} bytes") from error
