"""An operator's hold on a pool: `holdshort hold`, `holdshort clear`, `holdshort lane`."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import orjson

from ..storage.errors import ObjectNotFound
from ..storage.store import Store
from .ledger import layout


@dataclass(frozen=True, slots=True)
class Hold:
    """Batch work on a pool is to stand still.

    Attributes:
        reason, by: for people.
        since, until: seconds since the epoch; until None: until somebody clears it.
    """

    reason: str
    by: str
    since: float
    until: float | None = None


def set_hold(store: Store, pool: str, hold: Hold) -> None:
    """Hold a pool; replaces a hold that is there."""
    store.replace(layout.hold(pool), orjson.dumps(asdict(hold)))


def clear_hold(store: Store, pool: str) -> bool:
    """Take the hold off a pool; False if there was none."""
    held = _read(store, pool) is not None
    store.delete(layout.hold(pool))
    return held


def read_hold(store: Store, pool: str, *, now: float) -> Hold | None:
    """The hold on a pool that is in force at `now` (seconds since the epoch)."""
    hold = _read(store, pool)
    if hold is None or (hold.until is not None and now >= hold.until):
        return None
    return hold


def _read(store: Store, pool: str) -> Hold | None:
    try:
        return Hold(**orjson.loads(store.read(layout.hold(pool))))
    except ObjectNotFound:
        return None
