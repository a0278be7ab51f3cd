"""A folder that is filled beside the one that it becomes; what a killed process has left of such goes with the next."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def beside(folder: Path) -> Generator[Path]:
    """An empty folder in the same place, for as long as inside; it is renamed there, or removed with all in it.

    Those that dead processes left for the same folder are removed first. Raises OSError.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    aside, fd = _made(folder)
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        os.close(fd)


def _made(folder: Path) -> tuple[Path, int]:
    """A new folder, and what holds its lock, which ends with this process."""
    while True:
        aside = folder.parent / f".{folder.name}.restoring-{secrets.token_hex(4)}"
        aside.mkdir()
        try:
            fd = os.open(aside, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # taken for a dead one's before it was locked
        with suppress(OSError):  # where there are no locks nobody sweeps either
            fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return aside, fd
        os.close(fd)


def _sweep(folder: Path) -> None:
    named = re.compile(rf"\.{re.escape(folder.name)}\.restoring-[0-9a-f]{{8}}")
    for path in folder.parent.iterdir():
        if not named.fullmatch(path.name):
            continue
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # removed meanwhile, or no folder
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except OSError:
            pass  # its process lives
        finally:
            os.close(fd)
