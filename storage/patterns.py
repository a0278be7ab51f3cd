"""What processes have seen of how folders are used, kept beside the cache for those that come later.

patterns/<key>/<store>.<process>    what one process has seen of one folder; written aside and renamed, so never half

Nobody writes another's file, so there is nothing to lock. What is broken is told and left out; what is old goes.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from ..profiles import BUILT_IN, Access
from ..profiles.pattern import Mark, Pattern, Seen
from .caching.place import cache_folder, usable_folder

log = logging.getLogger(__name__)

_FORMAT = 1
_OLD_S = 7 * 86400.0
_MOST_FILES, _MOST_FOLDERS, _MOST_BYTES = 32, 4096, 64 * 1024
_told: set[Path] = set()


class Patterns:
    """What is known of the folders of one store.

    Args:
        store: its name, see caching.opening.store_name.
    """

    def __init__(self, store: str) -> None:
        self._store = store
        self._protocol = store.partition("-")[0]
        self._is_off = False
        self._swept: set[str] = set()

    def others(self, folder: str, process: str) -> list[Seen]:
        """What other processes have seen of a folder, lately."""
        here = _folder(self._protocol, folder, cache_folder()[0])
        return [] if self._is_off else list(_read(here, f"{self._store}.", but=f"{self._store}.{process}"))

    def tell(self, folder: str, seen: Seen) -> None:
        """Write down what this process has seen; where that can't be written, it stays with this process."""
        if self._is_off:
            return
        root, why = usable_folder()
        if why:
            self._is_off = True  # the cache has said so
            return
        here = _folder(self._protocol, folder, root)
        try:
            if not self._swept:
                _sweep_folders(root / "patterns")
            here.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder not in self._swept:
                self._swept.add(folder)
                _sweep_files(here)
            aside = here / f".{seen.process}.{secrets.token_hex(4)}"
            aside.write_bytes(orjson.dumps({"format": _FORMAT, "folder": folder, **asdict(seen)}))
            aside.rename(here / f"{self._store}.{seen.process}")
        except OSError as error:
            if error.errno == errno.ENOENT:
                return  # somebody made room a moment ago; the next time will do
            self._is_off = True
            log.warning("What was seen of %s can't be kept in %s: %s.", folder, here, error.strerror or error)


def seen_of(protocol: str, folder: str) -> list[Seen]:
    """What processes have seen of a folder lately, whichever options they reached the store with; newest first."""
    return list(_read(_folder(protocol, folder, cache_folder()[0]), f"{protocol}-"))


def _folder(protocol: str, folder: str, root: Path) -> Path:
    return root / "patterns" / hashlib.sha256(f"{protocol}://{folder}".encode()).hexdigest()[:32]


def _read(here: Path, prefix: str, *, but: str = "") -> Iterator[Seen]:
    now_s = time.time()
    for path, changed_s in _files(here)[:_MOST_FILES]:
        if not path.name.startswith(prefix) or path.name == but or now_s - changed_s > _OLD_S:
            continue
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise ValueError("it is too large")
            yield _seen(orjson.loads(path.read_bytes()))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            if path not in _told:
                _told.add(path)
                log.warning("%s is left out, it can't be read: %s: %s", path, type(error).__name__, error)


def _seen(told: dict[str, Any]) -> Seen:
    if told["format"] != _FORMAT:
        raise ValueError(f"its format is {told['format']!r}, not {_FORMAT}")
    pattern = told["pattern"]
    if pattern is not None:
        signals = tuple(str(each) for each in pattern["signals"])
        values = tuple((str(name), value) for name, value in pattern["values"])
        Access.of(dict(values))
        pattern = Pattern(str(pattern["name"]), BUILT_IN[pattern["profile"]].name, signals, values)
    marks = tuple(
        Mark(int(m["key"]), int(m["tag"]), int(m["size"]), int(m["read_bytes"]), float(m["first_s"]),
             float(m["last_s"]))
        for m in told["marks"]
    )  # fmt: skip
    return Seen(str(told["process"]), float(told["at_s"]), pattern, bool(told["has_changed"]), marks)


def _files(here: Path) -> list[tuple[Path, float]]:
    """Newest first, each with when it was written."""
    found: list[tuple[Path, float]] = []
    try:
        with os.scandir(here) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    found.append((Path(entry.path), entry.stat().st_mtime))
    except (FileNotFoundError, PermissionError):
        return []
    return sorted(found, key=lambda each: -each[1])


def _sweep_files(here: Path) -> None:
    now_s = time.time()
    for place, (path, changed_s) in enumerate(_files(here)):
        if place >= _MOST_FILES - 1 or now_s - changed_s > _OLD_S:
            with suppress(FileNotFoundError):
                path.unlink()


def _sweep_folders(root: Path) -> None:
    for place, (path, changed_s) in enumerate(_files(root)):
        if place >= _MOST_FOLDERS or time.time() - changed_s > _OLD_S:
            shutil.rmtree(path, ignore_errors=True)
