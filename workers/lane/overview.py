"""A pool's lane as a whole, for people: its reading, its sources on this host, its workers wherever they are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...jobs import presence
from ...jobs.holds import read_hold
from ...jobs.presence import Beat
from ...jobs.settings import Settings
from ...storage.store import Store
from .operator import as_reading
from .place import LanePlace
from .reader import LaneReader, SourceState
from .reading import Reading, strictest

_BEATS_EVERY_S = 1.0
_LEAST_S = 1.0


@dataclass(frozen=True, slots=True)
class PoolLane:
    """One pool at one moment.

    Attributes:
        reading: the strictest word on this host; that of the workers' hosts, where this host has no source.
        sources: those that are heard on this host.
        workers: those alive, with what they have done.
    """

    pool: str
    reading: Reading
    sources: Sequence[SourceState]
    workers: Sequence[Beat]

    def harvest(self, beat: Beat) -> float | None:
        """The share of the time in which its lane was not held that a worker's engine worked; None at first."""
        left_s = beat.at - beat.started_at - beat.totals.get("hold_s", 0.0)
        return min(1.0, beat.totals.get("harvested_s", 0.0) / left_s) if left_s >= _LEAST_S else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON; spans of time in seconds instead of a clock's readings."""
        now = time.monotonic()
        return {
            "pool": self.pool,
            **_words(self.reading, now),
            "sources": [
                {
                    "name": state.name,
                    "device": state.device,
                    "pid": state.pid,
                    "counts": state.reading is not None,
                    **(_words(state.reading, now) if state.reading else {}),
                    "heard_s_ago": None if state.heard_s == float("inf") else round(state.heard_s, 3),
                    "figures": asdict(state.figures),
                }
                for state in self.sources
            ],
            "workers": [{**asdict(beat), "state": beat.state, "harvest": self.harvest(beat)} for beat in self.workers],
        }


class Overview:
    """Looks at pools as often as it is asked; asks the store at most once a second.

    Raises:
        UnknownPool, LaneError: when it is made.
    """

    def __init__(self, settings: Settings, store: Store, pools: Sequence[str]) -> None:
        self._store = store
        place = LanePlace.of(settings)
        self._readers = {
            pool: LaneReader(
                place, pool, signal_loss_timeout_s=settings.pool(pool).signal_loss_timeout_s, on_lost=_shown
            )
            for pool in pools
        }
        self._slow: dict[str, tuple[Reading | None, list[Beat]]] = {}
        self._asked_at = float("-inf")

    def look(self) -> list[PoolLane]:
        """Each pool now. Raises StoreUnavailable."""
        if time.monotonic() >= self._asked_at + _BEATS_EVERY_S:
            self._asked_at = time.monotonic()
            now = time.time()
            for pool in self._readers:
                hold = read_hold(self._store, pool, now=now)
                found = presence.alive(self._store, pool, now=now)
                self._slow[pool] = (as_reading(hold) if hold else None, found)
        return [self._pool(pool, reader) for pool, reader in self._readers.items()]

    def _pool(self, pool: str, reader: LaneReader) -> PoolLane:
        operator, workers = self._slow[pool]
        sources = reader.sources()
        readings = [operator] if operator else []
        readings += [state.reading for state in sources if state.reading is not None]
        if not sources:
            readings += [_reading_of(beat) for beat in workers if beat.source]
        return PoolLane(pool, strictest(readings), sources, workers)


def _reading_of(beat: Beat) -> Reading:
    since = time.monotonic() - beat.held_s - max(0.0, time.time() - beat.at)
    signal = "hold" if beat.signal == "hold" else "clear"
    return Reading(signal, beat.headroom, beat.reason, f"{beat.source} (on {beat.host})", since)


def _words(reading: Reading, now: float) -> dict[str, Any]:
    return {
        "signal": reading.signal,
        "headroom": reading.headroom,
        "source": reading.source,
        "reason": reading.reason,
        "for_s": round(now - reading.since, 3) if reading.since else None,
        "another_s": None if reading.until is None else round(max(0.0, reading.until - now), 3),
        "is_lost": reading.is_lost,
    }


def _shown(name: str) -> None:
    """A lost source is part of the picture; nothing more needs to be said."""
