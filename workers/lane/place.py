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
from .record import SIZE

SUFFIX = ".lane"
_ROSTER = "roster"
_COUNT = struct.Struct("<Q")


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
        base = settings.lane_folder
        if base is None:
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
        if not self.roster.exists():
            with self.changing():
                pass

    @contextmanager
    def changing(self) -> Generator[None]:
        """Sources may come and go inside, one process at a time; readers then look again."""
        with _explained(self.roster):
            descriptor = os.open(self.roster, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            with _explained(self.roster):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if os.fstat(descriptor).st_size < SIZE:
                    os.posix_fallocate(descriptor, 0, SIZE)
            yield
            (count,) = _COUNT.unpack(os.pread(descriptor, _COUNT.size, 0))
            os.pwrite(descriptor, _COUNT.pack(count + 1), 0)
        finally:
            os.close(descriptor)

    def maps(self) -> list[Path]:
        """The maps that are there, by name."""
        try:
            return sorted(path for path in self.folder.iterdir() if path.suffix == SUFFIX)
        except FileNotFoundError:
            return []

    def create(self, path: Path, fill: Callable[[int], None]) -> int:
        """Put a map where it is found, in one step, once `fill` has written it; returns its open descriptor.

        Its space is really taken, so that no write into the map can fail later. It is ours until we close it or end.
        """
        fresh = path.with_suffix(".new")
        with _explained(path):
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
    """The same text however the same store was written."""
    return store.rstrip("/") if "://" in store else str(Path(store).expanduser().absolute())


def owner_lives(path: Path) -> bool:
    """Whether the process that a map belongs to still has it open, which the kernel knows."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
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


def _private(folder: Path) -> None:
    with _explained(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise LaneError(
            f"The lane folder {folder} has to be a folder that belongs to this user and that nobody else may write to. "
            f"Whoever writes there can stop batch work. Remove it, or name another one as lane_folder."
        )


@contextmanager
def _explained(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LaneError(
                f"The lane map {path} can't be made: no space is left there. Make some room (a map takes {SIZE} "
                f"bytes), or name another folder as lane_folder, for sources and workers alike."
            ) from error
        raise LaneError(
            f"The lane map {path} can't be used: {error.strerror or error}. Name another folder as lane_folder, for "
            f"sources and workers alike."
        ) from error
