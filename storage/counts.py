"""What scans have left for those that come later: how much lies where, kept beside the cache."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import orjson

from ..profiles.sizing import DataSize
from ..profiles.working_set import Counted
from .backends import file_system_of
from .caching.opening import store_name
from .caching.place import cache_folder
from .settings import ScanLimits

log = logging.getLogger(__name__)

_SUFFIX = ".json"
_LOOK_S = 5.0
_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Run:
    """A count that has not come to its end: `after` is what was counted last."""

    began_at: float
    objects: int = 0
    bytes: int = 0
    after: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """What earlier scans have left: the last whole count, and the one that goes on."""

    whole: DataSize | None = None
    run: Run | None = None


class Record:
    """What is left of one place: a file, always a whole one."""

    def __init__(self, folder: Path, fs: Any, path: str) -> None:
        name = f"{store_name(fs)}:{fs.unstrip_protocol(path)}"
        self._path = folder / f"{_key(name)}{_SUFFIX}"
        self._url = without_credentials(name.partition(":")[2])

    def read(self) -> Known:
        """What is there; nothing, if it can't be used, which is logged."""
        try:
            return _known(self._path)
        except FileNotFoundError:
            return Known()
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("%s can't be used, so it is counted anew: %s", self._path, error)
            return Known()

    def write(self, known: Known) -> None:
        """Unless what is there goes further."""
        there = self.read()
        if known.whole is None or (there.whole is not None and there.whole.scanned_at > known.whole.scanned_at):
            known = replace(known, whole=there.whole)
        if there.run is not None and known.run is not None and _is_further(there.run, known.run):
            known = replace(known, run=there.run)
        data = orjson.dumps({"url": self._url, **asdict(known)}, option=orjson.OPT_INDENT_2)
        temporary = self._path.with_name(f".{self._path.name}-{os.getpid()}-{time.monotonic_ns():x}")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.write_bytes(data)
            os.replace(temporary, self._path)
        except OSError as error:
            log.warning("What was counted can't be left in %s for the next scan: %s", self._path.parent, error)
        finally:
            with suppress(OSError):
                temporary.unlink()


class Counts:
    """The whole counts of a store's places that are not too old. Asks no store; any thread may use it.

    Args:
        fs: the store's own file system.
        folder: where counts are left.
        fresh_s: for how long one counts; by default as the configuration says.
        every_s: how often it is looked for new ones, at most.

    Raises:
        SettingsError: the configuration can't be used.
    """

    def __init__(
        self,
        fs: Any,
        *,
        folder: Path | None = None,
        fresh_s: float | None = None,
        every_s: float = _LOOK_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._fs = fs
        self._store = store_name(fs)
        self._folder = folder or counts_folder()
        self._fresh_s = ScanLimits.load().fresh_s if fresh_s is None else fresh_s
        self._every_s = every_s
        self._clock = clock
        self._look_at = 0.0
        self._changed_ns = -1
        self._names: frozenset[str] = frozenset()
        self._found: dict[str, Counted | None] = {}

    def of(self, path: str) -> Counted | None:
        """The count of an object's folder, or of the nearest one above that was counted; None if none was.

        Of what is not cached, as are objects of this machine, there is none.
        """
        if not self._store:
            return None
        self._look()
        if not self._names:
            return None
        found = self._at(path) or self._above(path.rpartition("/")[0])
        is_fresh = found is not None and 0 <= self._clock() - found.size.scanned_at < self._fresh_s
        return found if is_fresh else None

    # -- inside ------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Which counts there are, now and then."""
        now_s = time.monotonic()
        if now_s < self._look_at:
            return
        self._look_at = now_s + self._every_s
        try:
            changed_ns = self._folder.stat().st_mtime_ns
            if changed_ns == self._changed_ns:
                return
            names = frozenset(name.removesuffix(_SUFFIX) for name in os.listdir(self._folder))
        except OSError:
            changed_ns, names = -1, frozenset[str]()
        self._names, self._found, self._changed_ns = names, {}, changed_ns

    def _above(self, folder: str) -> Counted | None:
        if folder in self._found:
            return self._found[folder]
        found, at = None, folder
        while at and found is None:
            found, at = self._at(at), at.rpartition("/")[0]
        if len(self._found) >= _KEPT:
            self._found.clear()
        self._found[folder] = found
        return found

    def _at(self, path: str) -> Counted | None:
        path = path.rstrip("/")
        url = cast("str", self._fs.unstrip_protocol(path))
        name = _key(f"{self._store}:{url}")
        if name not in self._names:
            return None
        try:
            whole = _known(self._folder / f"{name}{_SUFFIX}").whole
        except (OSError, ValueError, TypeError, KeyError):
            return None  # the next scan says so
        return None if whole is None else Counted(without_credentials(url), whole)


def counts_folder() -> Path:
    """Where counts are left. Raises SettingsError if that can't be told from the configuration."""
    return cache_folder()[0].parent / "scans"


def may_be_counted(url: str) -> bool:
    """Whether there is a count of a URL, or of a folder above it, of whichever store. Needs no client of the store.

    Raises:
        SettingsError: where counts are left can't be told from the configuration.
    """
    url = without_credentials(url)
    for path in counts_folder().glob(f"*{_SUFFIX}"):
        with suppress(OSError, ValueError, TypeError, KeyError):
            counted = cast("str", orjson.loads(path.read_bytes())["url"])
            if url == counted or url.startswith(f"{counted}/"):
                return True
    return False


def behind(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """The store's own file system, and a path: none of ours has to be asked on the way. Raises MissingExtra."""
    _, _, rest = url.rpartition("::")
    fs, path = file_system_of(rest if "://" in rest else f"file://{os.path.abspath(rest)}", options)
    return fs, path.rstrip("/") or path


def without_credentials(url: str) -> str:
    """A URL that may be shown."""
    chain, _, last = url.rpartition("::")
    parts = urlsplit(last)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.scheme else last
    return f"{chain}::{shown}" if chain else shown


def _key(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def _known(path: Path) -> Known:
    found = cast("dict[str, Any]", orjson.loads(path.read_bytes()))
    whole, run = found["whole"], found["run"]
    return Known(whole and DataSize(**whole), run and Run(**run))


def _is_further(there: Run, ours: Run) -> bool:
    return there.began_at >= ours.began_at and there.objects > ours.objects
