"""fsspec's file system in this process's memory."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from typing import Any

from ...profiles.access import Access

one_at_a_time = threading.Lock()
"""Whoever looks what is there before writing: no file system of this process does that at once."""


class MemoryTarget:
    """Files of a MemoryFileSystem."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    def sink(
        self,
        path: str,
        access: Access,
        *,
        is_new: bool,
        is_held: bool,
        size_bytes: int | None,
        settings: Mapping[str, Any],
    ) -> MemorySink | None:
        if settings:
            return None
        if is_new and self._fs.exists(path):
            raise FileExistsError(path)
        if self._fs.isdir(path):
            raise IsADirectoryError(path)
        return MemorySink(self._fs, path, is_new=is_new)


class MemorySink:
    """One file, kept apart until it is whole."""

    def __init__(self, fs: Any, path: str, *, is_new: bool) -> None:
        self._fs = fs
        self._path = path
        self._is_new = is_new
        self._data = io.BytesIO()

    def write(self, data: memoryview, *, is_all: bool = False) -> None:
        self._data.write(data)

    def finish(self) -> None:
        return None

    def commit(self) -> None:
        with one_at_a_time:
            self._fs.pipe_file(self._path, self._data.getvalue(), mode="create" if self._is_new else "overwrite")
        self.discard()

    def discard(self) -> None:
        self._data = io.BytesIO()
