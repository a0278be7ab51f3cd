"""A folder of this machine: a file without a name, which gets its name when it is whole."""

from __future__ import annotations

import builtins
import errno
import io
import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ...profiles.access import Access
from ..errors import StoreRefused

_BUFFER_BYTES = 256 * 1024
_UNNAMED_REFUSED = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL}
_UNLINKED_REFUSED = {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOENT, errno.EXDEV}


class LocalTarget:
    """Files by fsspec's local file system."""

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
    ) -> LocalSink | None:
        if settings:
            return None
        path = os.path.realpath(path)  # a link stays, and what it leads to is replaced
        if is_new and os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if os.path.exists(path) and not os.path.isfile(path):
            return None  # a device or a pipe can't be replaced
        if self._fs.auto_mkdir:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        return LocalSink(path, is_new=is_new)


class LocalSink:
    """One file. Where the file system can't keep a file without a name, it has a hidden one in the same folder."""

    def __init__(self, path: str, *, is_new: bool) -> None:
        self._path = path
        self._folder = os.path.dirname(path)
        self._is_new = is_new
        self._temporary = f"{self._folder}/.tmp-{secrets.token_hex(8)}"
        self._is_named = False
        self._file = io.FileIO(self._make(), "wb")
        # Not a buffered file, whose copy in a forked child would write what it holds when that ends.
        self._pending = bytearray()

    def write(self, data: memoryview, *, is_all: bool = False) -> None:
        if len(self._pending) + len(data) < _BUFFER_BYTES:
            self._pending += data
            return
        self._write_pending()
        self._write_out(data)

    def finish(self) -> None:
        self._write_pending()
        descriptor = self._file.fileno()
        with suppress(FileNotFoundError):
            mode = stat.S_IMODE(os.stat(self._path).st_mode)
            if mode != stat.S_IMODE(os.fstat(descriptor).st_mode):
                os.fchmod(descriptor, mode)
        os.fsync(descriptor)

    def commit(self) -> None:
        if self._is_new:
            self._give_name(self._path)
        else:
            self._give_name(self._temporary)
            os.replace(self._temporary, self._path)
            self._is_named = False
        self._file.close()
        self._unlink()
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def discard(self) -> None:
        self._pending.clear()
        self._file.close()
        self._unlink()

    # -- inside ------------------------------------------------------------------------------------------

    def _write_pending(self) -> None:
        pending, self._pending = self._pending, bytearray()
        self._write_out(memoryview(pending))

    def _write_out(self, data: memoryview) -> None:
        while data:
            data = data[self._file.write(data) :]

    def _make(self) -> int:
        flags = os.O_WRONLY | os.O_CLOEXEC
        try:
            return os.open(self._folder, flags | os.O_TMPFILE, 0o666)
        except OSError as error:
            if error.errno not in _UNNAMED_REFUSED:
                raise
        descriptor = os.open(self._temporary, flags | os.O_CREAT | os.O_EXCL, 0o666)
        self._is_named = True
        return descriptor

    def _give_name(self, name: str) -> None:
        """Raises FileExistsError."""
        if self._is_named and name == self._temporary:
            return
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            source = self._temporary if self._is_named else f"/proc/self/fd/{self._file.fileno()}"
            # With a folder's descriptor, for only then a link in /proc is followed.
            os.link(source, os.path.basename(name), src_dir_fd=folder, dst_dir_fd=folder)
        except FileExistsError:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from None
        except OSError as error:
            if error.errno in _UNLINKED_REFUSED:
                raise StoreRefused(
                    f"{self._folder} is on a file system without hard links, which creating a file only if there is "
                    f'none needs. Write {name} with the mode "wb", or to another file system.'
                ) from error
            raise
        finally:
            os.close(folder)
        self._is_named = self._is_named or name == self._temporary

    def _unlink(self) -> None:
        if self._is_named:
            with suppress(OSError):
                os.unlink(self._temporary)
            self._is_named = False


def copied_from(path: str) -> Any:
    """A local file, to be copied from."""
    return builtins.open(path, "rb", buffering=0)
