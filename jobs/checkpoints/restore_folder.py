"""The folder that a restore job fills: aside, by any worker that sees it, and renamed once all is there.

<parent>/.<name>.restoring-<job>/<token>     tells this folder from one of the same name on another host
<parent>/.<name>.restoring-<job>/files/…     what is there so far
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from ...storage.errors import Corrupt, NotAllowedNow, UploadGone
from ...storage.flow import Flow
from ...storage.parted.folder import FolderParts
from ..record import JobRecord
from .uploads import PLACE, Uploads


def restore_folder(record: JobRecord) -> RestoreFolder | None:
    """The folder of a job that restores into one; None for one that warms a cache, and for others."""
    return RestoreFolder(record.spec["to"], record.id) if record.action == "restore" and "to" in record.spec else None


class RestoreFolder:
    """Where the files of one restore job go on this host.

    Args:
        folder: where they are at the end.
    """

    def __init__(self, folder: str, job_id: str) -> None:
        self.folder = Path(folder)
        self._aside = self.folder.parent / f".{self.folder.name}.restoring-{job_id}"
        self._files = self._aside / "files"
        self.parted = FolderParts(
            str(self._files), str(self.folder), self._locate, check_there=self._check_there, fsync=True
        )

    def enter(self, uploads: Uploads) -> None:
        """Begin it, or make sure that it is the one that other workers of the job write to.

        Raises:
            NotAllowedNow: the folder is there and not empty, or another host's.
        """
        noted = uploads.noted(PLACE)
        if noted is None:
            check_free(self.folder)
            self._files.mkdir(parents=True, exist_ok=True)
            token = secrets.token_hex(8)
            (self._aside / token).touch()
            noted = uploads.note(PLACE, {"token": token})
        if not (self._aside / str(noted["token"])).exists():
            raise NotAllowedNow(
                f"{self.folder} is not the folder that this restore was begun in: this worker's host has another "
                f"one of that name. Restore into a folder that all workers of the pool share, or by a pool of one host."
            )

    def replace(self, path: str, data: bytes, flow: Flow) -> None:
        """Write a whole file."""
        token = self.parted.begin(path)
        try:
            self.parted.put(path, token, 0, 0, data, flow)
            self.parted.finish(path, token, (), len(data))
        except BaseException:
            self.parted.drop(path, token)
            raise

    def check(self, path: str, size_bytes: int) -> None:
        """Raises UploadGone if a file is not there, or not as long as it has to be."""
        try:
            found = os.stat(self._locate(path)).st_size
        except FileNotFoundError:
            found = None
        if found != size_bytes:
            raise UploadGone(f"{path} has {found} bytes in what was restored for {self.folder}, not {size_bytes}.")

    @property
    def has_appeared(self) -> bool:
        """Whether `appear` was done before, by this process or another."""
        return self._aside.is_dir() and not self._files.is_dir() and self.folder.is_dir()

    def appear(self) -> None:
        """Make the folder appear. Raises NotAllowedNow if something else is there meanwhile."""
        check_free(self.folder)
        with suppress(FileNotFoundError):
            self.folder.rmdir()  # it is empty
        os.rename(self._files, self.folder)

    def tidy(self) -> None:
        """Remove what lies aside."""
        shutil.rmtree(self._aside, ignore_errors=True)

    def _check_there(self) -> None:
        # Whoever comes too late must not make it again.
        if not self._files.is_dir():
            raise UploadGone(f"What was restored for {self.folder} so far is gone.")

    def _locate(self, path: str) -> str:
        return f"{self._files}/{inside(path)}"


def inside(path: str) -> str:
    """The path itself, if it stays inside its folder. A manifest is data: what it names must not lead out."""
    parts: Sequence[str] = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise Corrupt(f"the manifest names {path!r}, outside its folder")
    return path


def check_free(folder: Path) -> None:
    """Raises NotAllowedNow if there is something at a folder's place that a restore would overwrite."""
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise NotAllowedNow(f"{folder} is there already and not empty. Restore into a new folder, or remove it first.")
