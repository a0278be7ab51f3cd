"""How much lies under a URL: counted for a bounded time, and gone on with where the last count stopped."""

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
from .backends import file_system_of, lacks_credentials
from .caching.opening import store_name
from .caching.place import cache_folder
from .errors import HoldshortError, ObjectNotFound, SettingsError, StoreError, StoreUnavailable
from .listing import pages
from .settings import ScanLimits

log = logging.getLogger(__name__)

_SAVED_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class _Run:
    """A count that has not come to its end: `after` is what was counted last."""

    began_at: float
    objects: int = 0
    bytes: int = 0
    after: str = ""


@dataclass(frozen=True, slots=True)
class _Known:
    """What earlier scans have left: the last whole count, and the one that goes on."""

    whole: DataSize | None = None
    run: _Run | None = None


def scan(
    url: str,
    *,
    storage_options: Mapping[str, Any] | None = None,
    limits: ScanLimits | None = None,
    folder: Path | None = None,
    progress: Callable[[int, int], None] = lambda objects, size_bytes: None,
    clock: Callable[[], float] = time.time,
) -> DataSize:
    """Count the objects and bytes under a URL, or say what was counted not long ago.

    What was counted is left in the cache's folder. A scan that reaches a limit is gone on with by the next one, by
    whichever process; a whole count is begun anew once it is older than `limits.fresh_s`, and counts until then and
    until the new one is whole. Two that scan at once do some of the work twice, and neither counts wrong.

    Args:
        url: any that fsspec knows; a profile before it (`training::`) makes no difference.
        storage_options: passed on to fsspec, as for `fsspec.url_to_fs`.
        limits: by default those of the configuration.
        folder: where counts are left.
        progress: told objects and bytes so far, now and then.
        clock: seconds since the epoch.

    Raises:
        ObjectNotFound: nothing lies there.
        StoreError: it may not be listed.
        SettingsError: there are no credentials for it.
        StoreUnavailable: the store does not answer.
        MissingExtra: its backend is not installed.
    """
    limits = limits or ScanLimits.load()
    fs, path = _behind(url, storage_options or {})
    record = _Record(folder or cache_folder()[0].parent / "scans", f"{store_name(fs)}:{fs.unstrip_protocol(path)}")
    known = record.read()
    now = clock()
    if known.whole is not None and 0 <= now - known.whole.scanned_at < limits.fresh_s:
        return known.whole
    if known.run is None or not 0 <= now - known.run.began_at < limits.fresh_s:
        known = replace(known, run=_Run(now))
    assert known.run is not None
    run = known.run
    objects, size_bytes = run.objects, run.bytes
    stop_at, most = time.monotonic() + limits.most_s, run.objects + limits.most_objects
    save_at = time.monotonic() + _SAVED_EVERY_S
    is_whole = True
    try:
        for page in pages(fs, path, run.after):
            objects, size_bytes = objects + page.objects, size_bytes + page.bytes
            if page.after is not None:
                run = _Run(run.began_at, objects, size_bytes, page.after)
            progress(objects, size_bytes)
            if time.monotonic() >= save_at:
                record.write(replace(known, run=run))
                save_at = time.monotonic() + _SAVED_EVERY_S
            if time.monotonic() >= stop_at or (objects >= most and not page.is_amid):
                is_whole = False
                break
    except Exception as error:
        record.write(replace(known, run=run))
        raise _translated(url, error) from error
    found = DataSize(objects, size_bytes, is_whole, clock())
    record.write(_Known(whole=found) if is_whole else replace(known, run=run))
    # What was whole a while ago says more than how far this has come.
    return known.whole if known.whole is not None and not is_whole else found


def _translated(url: str, error: Exception) -> HoldshortError:
    shown = _without_credentials(url)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ObjectNotFound(f"Nothing lies under {shown} ({error}). Check how it is written.")
    if lacks_credentials(error):
        return SettingsError(f"There are no credentials for {shown} ({error}). Set those of its cloud.")
    if isinstance(error, PermissionError) or "forbidden" in str(error).lower():
        return StoreError(f"{shown} may not be listed: {error}. Check the credentials, and whether they allow listing.")
    # Clients raise many kinds of error for an answer that did not come.
    what = f"{type(error).__name__}: {error}"
    return StoreUnavailable(f"{shown} can't be listed: {what}. What was counted is kept; scan again to go on.")


def _behind(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """The store's own file system: none of ours has to be asked on the way."""
    _, _, rest = url.rpartition("::")
    fs, path = file_system_of(rest if "://" in rest else f"file://{os.path.abspath(rest)}", options)
    return fs, path.rstrip("/") or path


def _without_credentials(url: str) -> str:
    chain, _, last = url.rpartition("::")
    parts = urlsplit(last)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.scheme else last
    return f"{chain}::{shown}" if chain else shown


class _Record:
    """What is left for the next scan: a file, always a whole one."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"
        self._url = _without_credentials(name.partition(":")[2])

    def read(self) -> _Known:
        try:
            found = cast("dict[str, Any]", orjson.loads(self._path.read_bytes()))
            whole, run = found["whole"], found["run"]
            return _Known(whole and DataSize(**whole), run and _Run(**run))
        except FileNotFoundError:
            return _Known()
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("%s can't be used, so it is counted anew: %s", self._path, error)
            return _Known()

    def write(self, known: _Known) -> None:
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


def _is_further(there: _Run, ours: _Run) -> bool:
    return there.began_at >= ours.began_at and there.objects > ours.objects
