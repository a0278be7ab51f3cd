"""Where the lane maps of a store lie on this host: a private folder for each pool, on a RAM disk."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import struct
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from ...jobs.settings import Settings
from ...storage.errors import LaneError
from .bell import Bell
from .record import SIZE

SUFFIX = ".lane"
_ROSTER = "roster"
_COUNT = struct.Struct("<Q")
_BELL_AT = _COUNT.size


class LanePlace:
    """The folder of one store's lane maps on this host. Sources and workers of a store have to agree on it.

    Args:
        folder: made, readable by this user only, if it is not there.

    Raises:
        LaneError: it can't be made, or belongs to somebody else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        _private(folder)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The place for these settings: `lane_folder`, or a folder of the user's on the host's RAM disk."""
        if settings.lane_folder is not None:
            base = settings.lane_folder.expanduser()
        else:
            shared = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it, and its owner checked
            root = shared if shared.is_dir() else Path(tempfile.gettempdir())
            base = root / f"holdshort-{os.geteuid()}"
        _private(base)
        return cls(base / hashlib.sha256(_whole(settings.store).encode()).hexdigest()[:16])

    def pool(self, name: str) -> PoolPlace:
        """The maps of a pool's sources."""
        return PoolPlace(self.folder / name)


class PoolPlace:
    """The maps of one pool's sources, and the roster that tells readers when one comes or goes.

    Raises:
        LaneError: the folder or the roster can't be made, e.g. because the RAM disk is full.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.roster = folder / _ROSTER
        self.make()

    def make(self) -> None:
        """Make what is not there yet."""
        _private(self.folder)
        with explained(self.roster):
            is_whole = self.roster.exists() and self.roster.stat().st_size == SIZE
        if not is_whole:
            with self.changing():
                pass

    @contextmanager
    def changing(self) -> Generator[None]:
        """Sources may come and go inside, one process at a time; readers then look again."""
        with explained(self.roster):
            descriptor = self._locked()
        try:
            yield
            (count,) = _COUNT.unpack(os.pread(descriptor, _COUNT.size, 0))
            os.pwrite(descriptor, _COUNT.pack(count + 1), 0)
            was_removed = not self._is_roster(descriptor)
        finally:
            # Said, and not left to the closing: a process that was forked meanwhile has the file open as well.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)
        if was_removed:  # whoever reads has another roster by now, or soon
            _private(self.folder)
            with self.changing():
                pass

    def _locked(self) -> int:
        while True:
            descriptor = os.open(self.roster, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if self._is_roster(descriptor):
                    if os.fstat(descriptor).st_size < SIZE:
                        os.posix_fallocate(descriptor, 0, SIZE)
                    return descriptor
            except OSError:
                os.close(descriptor)
                raise
            os.close(descriptor)  # it was removed while we waited for it

    def _is_roster(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self.roster.stat())
        except FileNotFoundError:
            return False

    def bell(self, descriptor: int | None = None) -> Bell:
        """The bell of this pool, in its roster (which may be open already): rung at each change of a source's word."""
        if descriptor is not None:
            return Bell(descriptor, _BELL_AT)
        with self.changing(), explained(self.roster):
            descriptor = os.open(self.roster, os.O_RDWR)
            try:
                return Bell(descriptor, _BELL_AT)
            finally:
                os.close(descriptor)

    def has(self, bell: Bell) -> bool:
        """Whether it is the bell of the roster that is there now."""
        try:
            found = self.roster.stat()
        except OSError:
            return False
        return bell.file == (found.st_dev, found.st_ino)

    def maps(self) -> list[Path]:
        """The maps that are there, by name."""
        try:
            return sorted(path for path in self.folder.iterdir() if path.suffix == SUFFIX)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _why(self.folder, error) from error

    def create(self, path: Path, fill: Callable[[int], None]) -> int:
        """Put a map where it is found, in one step, once `fill` has written it; returns its open descriptor.

        Its space is really taken, so that no write into the map can fail later. It is ours until we close it or end.
        """
        fresh = path.with_suffix(".new")
        with explained(path):
            fresh.unlink(missing_ok=True)
            descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, SIZE)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fill(descriptor)
                fresh.replace(path)
            except OSError:
                os.close(descriptor)
                fresh.unlink(missing_ok=True)
                raise
        return descriptor


def _whole(store: str) -> str:
    """The same text however the same store was written, on each host."""
    protocol, separator, rest = store.partition("://")
    if separator and protocol not in ("file", "local"):
        return store.rstrip("/")
    # Links are left as they are: they may differ between hosts, which have to agree as well.
    return os.path.abspath(Path(rest if separator else store).expanduser())


def owner_lives(path: Path) -> bool:
    """Whether the process that a map belongs to still has it open, which the kernel knows. Raises LaneError."""
    with explained(path):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):  # not there, or a link, which no source makes
                return False
            raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(descriptor)


def boot_id() -> bytes:
    """16 bytes that change when the host starts anew, and its monotonic clock with it."""
    try:
        return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))
    except (OSError, ValueError):  # no Linux: maps on a RAM disk are gone after a start anyway
        return bytes(16)


@contextmanager
def explained(path: Path) -> Generator[None]:
    """Tells what the system refuses as a LaneError, with the cure."""
    try:
        yield
    except OSError as error:
        raise _why(path, error) from error


def _why(path: Path, error: OSError) -> LaneError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LaneError(
            f"The lane map {path} can't be made: no space is left there. Make some room (a map takes {SIZE} "
            f"bytes), or name another folder as lane_folder, for sources and workers alike."
        )
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return LaneError(
            f"The lane map {path} can't be opened: {error.strerror}. Raise the limit (ulimit -n), or find who leaves "
            f"files open."
        )
    return LaneError(
        f"The lane map {path} can't be used: {error.strerror or error}. Name another folder as lane_folder, for "
        f"sources and workers alike."
    )


def _private(folder: Path) -> None:
    with explained(folder):
        _make(folder)
        found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise LaneError(
            f"The lane folder {folder} has to be a folder that belongs to this user and that nobody else may write to. "
            f"Whoever writes there can stop batch work. Remove it, or name another one as lane_folder."
        )


def _make(folder: Path) -> None:
    """With all that is above it, private whatever the umask: each of them is looked at, later or by another process."""
    if not folder.parent.exists():
        _make(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
