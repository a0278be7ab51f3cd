"""How much lies under a URL: counted for a bounded time, and gone on with where the last count stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..profiles.sizing import DataSize
from .backends import lacks_credentials
from .counts import Known, Record, Run, behind, counts_folder, without_credentials
from .errors import HoldshortError, ObjectNotFound, SettingsError, StoreError, StoreUnavailable
from .listing import pages
from .settings import ScanLimits

_SAVED_EVERY_S = 2.0


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
    fs, path = behind(url, storage_options or {})
    record = Record(folder or counts_folder(), fs, path)
    known = record.read()
    now = clock()
    if known.whole is not None and 0 <= now - known.whole.scanned_at < limits.fresh_s:
        return known.whole
    if known.run is None or not 0 <= now - known.run.began_at < limits.fresh_s:
        known = replace(known, run=Run(now))
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
                run = Run(run.began_at, objects, size_bytes, page.after)
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
    record.write(Known(whole=found) if is_whole else replace(known, run=run))
    # What was whole a while ago says more than how far this has come.
    return known.whole if known.whole is not None and not is_whole else found


def _translated(url: str, error: Exception) -> HoldshortError:
    shown = without_credentials(url)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ObjectNotFound(f"Nothing lies under {shown} ({error}). Check how it is written.")
    if lacks_credentials(error):
        return SettingsError(f"There are no credentials for {shown} ({error}). Set those of its cloud.")
    if isinstance(error, PermissionError) or "forbidden" in str(error).lower():
        return StoreError(f"{shown} may not be listed: {error}. Check the credentials, and whether they allow listing.")
    # Clients raise many kinds of error for an answer that did not come.
    what = f"{type(error).__name__}: {error}"
    return StoreUnavailable(f"{shown} can't be listed: {what}. What was counted is kept; scan again to go on.")
