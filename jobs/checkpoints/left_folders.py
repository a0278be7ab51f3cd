"""What restores have left beside their folders, on a host where nobody saw them end."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ...storage.store import Store
from ..ledger import layout
from .abandoned import ABANDONED_AGE_S

log = logging.getLogger(__name__)

_ASIDE = re.compile(r"\..+\.restoring-([a-z0-9]{26})")


def sweep_left(parent: Path, store: Store, *, now: float) -> list[Path]:
    """Remove what jobs that have ended left in a folder; returns what was removed.

    What no job of this store has left may be another store's, and under way: it goes once nothing of it was written for
    a week.

    Args:
        store: the jobs' own.
        now: seconds since the epoch.
    """
    removed: list[Path] = []
    for aside, job in _left(parent):
        has_ended = store.size(layout.outcome(job)) is not None
        if not has_ended and (store.size(layout.record(job)) is not None or now - _written_s(aside) < ABANDONED_AGE_S):
            continue
        shutil.rmtree(aside, ignore_errors=True)
        log.info("%s, which a restore that has ended had left, is removed", aside)
        removed.append(aside)
    return removed


def _left(parent: Path) -> Iterator[tuple[Path, str]]:
    with suppress(FileNotFoundError):
        for path in sorted(parent.iterdir()):
            found = _ASIDE.fullmatch(path.name)
            if found is not None and path.is_dir() and not path.is_symlink():
                yield path, found[1]


def _written_s(folder: Path) -> float:
    """When anything in a folder was written last, in seconds since the epoch."""
    latest = 0.0
    for path in (folder, *folder.rglob("*")):
        with suppress(FileNotFoundError):
            latest = max(latest, path.lstat().st_mtime)
    return latest
