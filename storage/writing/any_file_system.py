"""Any file system behind fsspec, by its own files, which are told to discard what others would commit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ..conditions import creating

log = logging.getLogger(__name__)


def own_file(fs: Any, path: str, *, is_new: bool, is_held: bool, settings: Mapping[str, Any]) -> Any:
    """The file system's own file. Raises FileExistsError if it was to be a new one, and there is one."""
    if is_new and fs.exists(path):
        raise FileExistsError(path)
    held = {"autocommit": False} if is_held else {}
    return fs.open(path, "xb" if is_new else "wb", **held, **settings)


def sink_of(file: Any, *, is_new: bool, is_held: bool) -> AnySink | None:
    """What takes bytes for such a file; None if it can't be discarded, as those of s3fs, gcsfs and adlfs can."""
    from fsspec.spec import AbstractBufferedFile

    if isinstance(file, AbstractBufferedFile) and type(file).discard is not AbstractBufferedFile.discard:
        return AnySink(file, is_new=is_new, is_held=is_held)
    return None


class AnySink:
    """One file of another file system."""

    def __init__(self, file: Any, *, is_new: bool, is_held: bool) -> None:
        self._file = file
        self._is_new = is_new
        self._is_held = is_held

    def write(self, data: memoryview, *, is_all: bool = False) -> None:
        self._file.write(data)

    def finish(self) -> None:
        if self._is_held:
            self._file.close()

    def commit(self) -> None:
        with creating(self._file.path, is_new=self._is_new):
            if self._is_held:
                self._file.commit()
            else:
                self._file.close()

    def discard(self) -> None:
        try:
            self._file.discard()
        except Exception as error:  # noqa: BLE001 - clients raise many kinds, and there is nothing else to do about it
            log.warning("What was written of %s stays where it is, unseen: %s", self._file.path, error)
        self._file.closed = True  # or it would commit when it is collected
