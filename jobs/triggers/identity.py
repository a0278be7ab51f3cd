"""When a dropped file is the same file, and when it is whole. Pure, but for asking the file system."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_UNFINISHED = (".part", ".partial", ".tmp", ".temp", ".crdownload", ".filepart", ".swp")


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Which file this is, unlike any other that ever has its name.

    The inode stays when a file is renamed or seen from another host; a file that is written anew, even with
    the same content, is another one.
    """

    name: str
    inode: int
    size_bytes: int
    modified_ns: int

    @property
    def key(self) -> str:
        """The idempotency key of the job that this file becomes."""
        return f"file:{self.name}:{self.inode}:{self.size_bytes}:{self.modified_ns}"


def identify(path: Path) -> FileIdentity | None:
    """The identity of a file as it is now; None if it is not (any more) a regular file."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not os.path.isfile(path) or os.path.islink(path):
        return None
    return FileIdentity(path.name, found.st_ino, found.st_size, found.st_mtime_ns)


def is_unfinished_name(name: str) -> bool:
    """Whether a name says that a file is hidden or still being written."""
    return name.startswith((".", "~")) or name.endswith((*_UNFINISHED, "~"))


def is_being_written(path: Path) -> bool | None:
    """Whether a process of this host has the file open for writing; None where that can't be seen.

    It can't be seen for another user's file, unless we may look into all processes. Writers on other hosts and in
    other containers are never seen, so "no" is a strong hint, not a proof.
    """
    descriptors = Path("/proc")
    if not descriptors.is_dir():
        return None
    try:
        wanted = os.stat(path)
    except FileNotFoundError:
        return None
    target = (wanted.st_dev, wanted.st_ino)
    all_seen = True
    for process in descriptors.iterdir():
        if not process.name.isdigit():
            continue
        try:
            entries = list((process / "fd").iterdir())
        except PermissionError:
            all_seen = False
            continue
        except (FileNotFoundError, ProcessLookupError):
            continue
        for entry in entries:
            try:
                found = os.stat(entry)
                if (found.st_dev, found.st_ino) == target and _writes(process / "fdinfo" / entry.name):
                    return True
            except (PermissionError, FileNotFoundError, ProcessLookupError):
                continue
    return False if all_seen or wanted.st_uid == os.geteuid() else None


def _writes(info: Path) -> bool:
    for line in info.read_text().splitlines():
        if line.startswith("flags:"):
            return int(line.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY
    return False
