"""Files that are written in parts, each beside its later name, and renamed when they are whole."""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath

from ..errors import StoreFull, StoreUnavailable, UploadGone
from ..flow import Flow
from .protocol import Unfinished

_PREFIX = ".parts-"
_TOKEN = re.compile(r"[0-9a-f]{16}")
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FolderParts:
    """Files below a folder.

    Args:
        root: the folder.
        where: how messages name it.
        locate: the absolute path of a file from its path below the folder; raises what it wants for a wrong one.
        check_there: raises StoreUnavailable when the folder itself is away, as when nothing is mounted there.
        fsync: whether a file survives a power cut once it is finished.
    """

    def __init__(
        self,
        root: str,
        where: str,
        locate: Callable[[str], str],
        *,
        check_there: Callable[[], None] = lambda: None,
        fsync: bool = False,
    ) -> None:
        self._root = root
        self._where = where
        self._locate = locate
        self._check_there = check_there
        self._fsync = fsync

    @property
    def parts_most(self) -> int:
        return 2**31

    def begin(self, path: str) -> str:
        token = secrets.token_hex(8)
        temporary = self._temporary(path, token)
        with self._acting(path):
            if not os.path.isdir(os.path.dirname(temporary)):
                self._check_there()
                os.makedirs(os.path.dirname(temporary), exist_ok=True)
            os.close(os.open(temporary, _NEW, 0o644))
        return token

    def put(self, path: str, token: str, index: int, start: int, data: bytes, flow: Flow) -> str:
        flow.check()
        with self._acting(path):
            try:
                # Opened anew for each part, so that a process that slept for long can't write to a finished file.
                descriptor = os.open(self._temporary(path, token), os.O_WRONLY | os.O_CLOEXEC)
            except FileNotFoundError as error:
                self._check_there()
                raise _gone(path, self._where) from error
        try:
            view = memoryview(data)
            while view:
                flow.check()
                begin = time.perf_counter()
                with self._acting(path):
                    wrote = os.pwrite(descriptor, view[: flow.chunk_bytes], start)
                flow.moved(wrote, time.perf_counter() - begin)
                view, start = view[wrote:], start + wrote
        finally:
            os.close(descriptor)
        return ""

    def finish(self, path: str, token: str, tags: Sequence[str], size_bytes: int) -> None:
        temporary, target = self._temporary(path, token), self._locate(path)
        with self._acting(path):
            try:
                found = os.stat(temporary).st_size
            except FileNotFoundError as error:
                self._check_there()
                with suppress(FileNotFoundError):
                    if os.stat(target).st_size == size_bytes:
                        return  # somebody else was faster, or we did it before
                raise _gone(path, self._where) from error
            if found != size_bytes:
                raise UploadGone(f"{path} in {self._where} has {found} bytes in its parts instead of {size_bytes}.")
            if self._fsync:
                self._sync(temporary)
            with suppress(FileNotFoundError):  # renamed by somebody else, just now
                os.rename(temporary, target)
            if self._fsync:
                self._sync(os.path.dirname(target))

    def drop(self, path: str, token: str) -> None:
        with self._acting(path), suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(self._temporary(path, token))

    def unfinished(self, folder: str) -> Iterator[Unfinished]:
        """The same as of the protocol, but that a file's path ends in "*": its later name is not known."""
        for at, _, names in os.walk(self._locate(folder)):
            for name in names:
                if name.startswith(_PREFIX) and _TOKEN.fullmatch(token := name.removeprefix(_PREFIX)):
                    with suppress(FileNotFoundError):
                        touched_at = os.stat(f"{at}/{name}").st_mtime
                        below = PurePosixPath(at).relative_to(self._root).as_posix()
                        yield Unfinished(f"{below}/*" if below != "." else "*", token, touched_at)

    def _temporary(self, path: str, token: str) -> str:
        if not _TOKEN.fullmatch(token):
            raise ValueError(f"{token!r} is no token of a file in parts")
        folder = os.path.dirname(self._root + "/" + path) if path.endswith("*") else os.path.dirname(self._locate(path))
        return f"{folder}/{_PREFIX}{token}"

    @staticmethod
    def _sync(path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextmanager
    def _acting(self, path: str) -> Generator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise StoreFull(
                    f"No space left in {self._where} ({error.strerror}, at {path}); free space, and work goes on."
                ) from error
            raise StoreUnavailable(f"{self._where} does not answer at {path}: {error.strerror or error}") from error


def _gone(path: str, where: str) -> UploadGone:
    return UploadGone(
        f"The parts of {path} are not in {where} (any more): they were finished or dropped, or this host sees "
        f"another folder of that name than the one that they were begun in."
    )
