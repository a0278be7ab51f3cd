"""Writes objects of one file system, for one process."""

from __future__ import annotations

import mimetypes
import os
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ...profiles.access import Access
from ..reading.fetching import Fetcher
from ..reading.signed_s3 import SignedS3
from .any_file_system import own_file, sink_of
from .file import WrittenFile
from .in_memory import MemoryTarget
from .local_file import LocalTarget, copied_from
from .parts import LEAST_PART
from .signed_s3 import SignedS3Target
from .sink import Sink, Target

_COPY_BYTES = 1024 * 1024


class Writer:
    """Writes files and whole objects. Any thread may ask.

    Not to be used in a forked child: its threads and connections are the parent's.

    Args:
        fs: the fsspec file system behind.
        fetcher: runs the requests; its memory is what writes hold.
        forget: called with the path of what has become visible.
    """

    def __init__(self, fs: Any, fetcher: Fetcher, forget: Callable[[str], None] = lambda _: None) -> None:
        self._fetcher = fetcher
        self._forget = forget
        self._fs = fs
        self._target: Target | None = None
        protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
        if protocol == "s3" and SignedS3.suits(fs):
            target = self._target = SignedS3Target(fs, fetcher)
            weakref.finalize(self, target.close)
        elif protocol in ("file", "local"):
            self._target = LocalTarget(fs)
        elif protocol == "memory":
            self._target = MemoryTarget(fs)
        self.is_ours = self._target is not None

    def open(
        self,
        path: str,
        access: Access,
        *,
        is_new: bool = False,
        is_held: bool = False,
        size_bytes: int | None = None,
        settings: Mapping[str, Any] | None = None,
        fs: Any = None,
    ) -> Any:
        """A WrittenFile to write an object to; or the file system's own file, where that has none that can discard.

        Args:
            is_new: there must be none of that name.
            is_held: closing it does not make it visible; see WrittenFile.
            size_bytes: how large it will be, if that is known.
            settings: the file system's own.

        Raises:
            FileExistsError: it was to be a new one, and there is one.
        """
        given = settings or {}
        sink: Sink | None = None
        if self._target is not None:
            sink = self._target.sink(
                path, access, is_new=is_new, is_held=is_held, size_bytes=size_bytes, settings=given
            )
        if sink is None:
            file = own_file(self._fs, path, is_new=is_new, is_held=is_held, settings=given)
            sink = sink_of(file, is_new=is_new, is_held=is_held)
            if sink is None:
                return file
        mode = "xb" if is_new else "wb"
        return WrittenFile(sink, path, fs=fs, mode=mode, is_held=is_held, on_commit=partial(self._forget, path))

    def put_each(self, puts: Mapping[str, tuple[int, Callable[[], None]]], access: Callable[[str], Access]) -> None:
        """Write many objects, each by its own function, by path and with its size: small ones at once.

        Raises:
            StoreError, OSError: what the first that failed raised; the others have ended by then.
        """
        failed: list[Exception] = []

        def one(put: Callable[[], None], size_bytes: int) -> int:
            try:
                if not failed:
                    put()
                    return size_bytes
            except Exception as error:  # noqa: BLE001 - raised below
                failed.append(error)
            return 0

        # A large one has many requests of its own, which would wait for the threads that wait for them.
        small = {path for path, (size, _) in puts.items() if size <= max(LEAST_PART, access(path).part_bytes)}
        self._fetcher.each([partial(one, put, size) for path, (size, put) in puts.items() if path in small])
        for path, (size, put) in puts.items():
            if path not in small:
                one(put, size)
        if failed:
            raise failed[0]


def copy_into(file: Any, local: str, told: Callable[[int], None]) -> None:
    """Write all of a local file; `told` each time how many bytes more were written."""
    with copied_from(local) as source:
        room = memoryview(bytearray(_COPY_BYTES))
        while got := source.readinto(room):
            file.write(room[:got])
            told(got)


def kind_of(local: str) -> dict[str, str]:
    """The content type by a file's name, as s3fs gives it."""
    found, _ = mimetypes.guess_type(os.fspath(local))
    return {} if found is None else {"ContentType": found}
