"""A store in a folder of this machine (or of a file system with hard links, such as NFS)."""

from __future__ import annotations

import builtins
import errno
import itertools
import os
import shutil
import socket
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import ObjectNotFound, StoreFull, StoreRefused, StoreUnavailable
from .flow import Flow
from .parted.folder import FolderParts
from .ranges import read_file
from .store import Capabilities, check_path, without_overwrite

_MARK = ".holdshort"
_TEMPORARY = ".tmp-"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_STALE_S = 24 * 3600.0
_HOST = socket.gethostname()


class LocalStore:
    """Objects as files. Exclusive create is a hard link of a finished temporary file.

    Args:
        root: the folder; made when missing.
        fsync: whether an object survives a power cut as soon as it was written. Without it (the default)
            it survives the end of any process, and a power cut may take the last seconds.
    """

    def __init__(self, root: str | Path, *, fsync: bool = False) -> None:
        self.root = Path(root).expanduser().absolute()
        self.capabilities = Capabilities()
        self._fsync = fsync
        self._numbers = itertools.count()
        # Tells the store from an empty folder in its place, such as a mount point with nothing mounted.
        self._mark = self.root / _MARK
        try:
            self._mark.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreRefused(
                f"The store folder {self.root} can't be made: {error.strerror}. "
                f"Set HOLDSHORT_STORE to a folder that you may write."
            ) from error

    @property
    def url(self) -> str:
        return f"file://{self.root}"

    def create(self, path: str, data: bytes) -> bool:
        target = self._at(path)
        if not data:
            return self._create_empty(target, path)
        temporary = self._write(path, [data])
        try:
            return self._link(temporary, target, path)
        finally:
            self._discard(temporary)

    def replace(self, path: str, data: bytes) -> None:
        self.upload(path, [data])

    def read_tagged(self, path: str) -> tuple[bytes, str]:
        raise without_overwrite(self.url)

    def replace_if(self, path: str, data: bytes, tag: str) -> bool:
        # A lock would hold off those that take it, not everybody, and on a shared folder perhaps nobody.
        raise without_overwrite(self.url)

    def read(self, path: str, *, first: int | None = None) -> bytes:
        with self._reading(path), open(self._at(path), "rb") as file:
            return file.read(-1 if first is None else first)

    def upload(self, path: str, parts: Iterable[bytes]) -> None:
        target = self._at(path)
        temporary = self._write(path, parts)
        try:
            with self._acting(path):
                os.replace(temporary, target)
                self._sync_folders(target)
        finally:
            self._discard(temporary)

    def read_parts(self, path: str, part_bytes: int = 8 * 2**20) -> Iterator[bytes]:
        with self._reading(path):
            file = open(self._at(path), "rb")  # noqa: SIM115 - the next line closes it
        with file:
            while True:
                with self._reading(path):
                    part = file.read(part_bytes)
                if not part:
                    return
                yield part

    def read_range(self, path: str, start: int, end: int, flow: Flow) -> bytes:
        with self._reading(path):
            data = read_file(self._at(path), start, end, flow)
        if len(data) < end - start:
            raise ObjectNotFound(f"{self.url}/{path} ends at byte {start + len(data)}, before byte {end}")
        return data

    def size(self, path: str) -> int | None:
        try:
            with self._reading(path):
                return os.stat(self._at(path)).st_size
        except ObjectNotFound:
            return None

    def located(self, path: str) -> None:
        return None

    @property
    def parted(self) -> FolderParts:
        return FolderParts(
            str(self.root), f"the store {self.url}", self._at, check_there=self._check_there, fsync=self._fsync
        )

    def list(self, folder: str) -> builtins.list[str]:
        target = self._at(folder) if folder else str(self.root)
        with self._acting(folder):
            try:
                with os.scandir(target) as entries:
                    return sorted(
                        f"{entry.name}/" if entry.is_dir() else entry.name
                        for entry in entries
                        if not entry.name.startswith(".")
                    )
            except (FileNotFoundError, NotADirectoryError):
                self._check_there()
                return []

    def delete(self, path: str) -> None:
        target = self._at(path)
        with self._acting(path):
            try:
                os.unlink(target)
            except (FileNotFoundError, NotADirectoryError):
                self._check_there()

    def delete_folder(self, folder: str) -> None:
        target = self._at(folder)
        with self._acting(folder):
            # Somebody else may be removing it too, and be faster with some of the files.
            while os.path.isdir(target):
                with suppress(FileNotFoundError):
                    shutil.rmtree(target)
            self._check_there()

    def sweep_temporary(self, *, older_than_s: float = _STALE_S) -> int:
        """Remove temporary files that a killed process left behind; returns how many.

        Those below `jobs/` are left: they go with their job, and there may be very many folders there.
        """
        removed = 0
        limit = time.time() - older_than_s
        for folder, below, files in os.walk(self.root):
            if folder == str(self.root) and "jobs" in below:
                below.remove("jobs")
            for name in files:
                if name.startswith(_TEMPORARY):
                    with suppress(FileNotFoundError):
                        if os.stat(f"{folder}/{name}").st_mtime < limit:
                            os.unlink(f"{folder}/{name}")
                            removed += 1
        return removed

    def _at(self, path: str) -> str:
        return f"{self.root}/{check_path(path)}"

    def _write(self, path: str, parts: Iterable[bytes]) -> str:
        """A finished temporary file with these parts; what the parts themselves raise passes as it is."""
        # Beside its target, so that a store may span file systems, and since some file systems are slow to find
        # place for many files of one folder. The name needs no more than to be ours: this host and process, this
        # store, this call.
        ours = f"{_TEMPORARY}{_HOST}-{os.getpid()}-{id(self):x}-{next(self._numbers)}-{time.time_ns():x}"
        temporary = f"{os.path.dirname(self._at(path))}/{ours}"
        with self._acting(path):
            try:
                descriptor = os.open(temporary, _NEW, 0o644)
            except FileNotFoundError:
                self._make_folder(temporary)
                descriptor = os.open(temporary, _NEW, 0o644)
        try:
            try:
                for part in parts:
                    view = memoryview(part)
                    with self._acting(path):
                        while view:
                            view = view[os.write(descriptor, view) :]
                if self._fsync:
                    with self._acting(path):
                        os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except BaseException:
            self._discard(temporary)
            raise
        return temporary

    @staticmethod
    def _discard(temporary: str) -> None:
        with suppress(OSError):
            os.unlink(temporary)

    def _make_folder(self, target: str) -> None:
        self._check_there()
        os.makedirs(os.path.dirname(target), exist_ok=True)

    def _create_empty(self, target: str, path: str) -> bool:
        """Nothing of an empty object can be missing, so it needs no temporary file."""
        with self._acting(path):
            try:
                try:
                    descriptor = os.open(target, _NEW, 0o644)
                except FileNotFoundError:
                    self._make_folder(target)
                    descriptor = os.open(target, _NEW, 0o644)
            except FileExistsError:
                return False
            os.close(descriptor)
            self._sync_folders(target)
        return True

    def _link(self, temporary: str, target: str, path: str) -> bool:
        with self._acting(path):
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
                    raise StoreRefused(
                        f"The file system of {self.root} has no hard links, which exclusive create needs. "
                        f"Put the store on another file system, or on s3:// or gs://."
                    ) from error
                raise
            self._sync_folders(target)
        return True

    def _sync_folders(self, target: str) -> None:
        """Make the object's name durable, and those of its folders, which may be new."""
        folder = os.path.dirname(target)
        while self._fsync and len(folder) >= len(str(self.root)):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            folder = os.path.dirname(folder)

    def _check_there(self) -> None:
        """Tell an object that is missing from a store that is."""
        if not self._mark.is_dir():
            raise StoreUnavailable(f"The store folder {self.root} is not there (was it removed, or is it not mounted?)")

    @contextmanager
    def _acting(self, path: str) -> Generator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise StoreFull(
                    f"No space left in the store {self.url} ({error.strerror}, at {path}). Nothing of the "
                    f"object was kept; free space, and work goes on by itself."
                ) from error
            why = error.strerror or error
            raise StoreUnavailable(f"The store {self.url} does not answer at {path}: {why}") from error

    @contextmanager
    def _reading(self, path: str) -> Generator[None]:
        with self._acting(path):
            try:
                yield
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                self._check_there()
                raise ObjectNotFound(f"{self.url}/{path} does not exist") from error
