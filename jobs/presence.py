"""Which workers are alive and what they do: a small object per worker, renewed every few seconds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import orjson

from ..storage.errors import ObjectNotFound
from ..storage.store import Store
from .ledger import layout

BEAT_S = 2.0
ALIVE_S = 10.0
"""A worker that has not beaten for so long counts as gone."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A worker's word about itself.

    Attributes:
        at, started_at: seconds since the epoch.
        job, stripe: in its hand; "" and -1 when it waits for work.
        rows_per_s: over the last minute of work.
        signal, headroom, source, reason: its reading of the lane; held_s: for how long it has been held.
        device: its accelerator, where the pool has several.
        totals: what it has done since it started (holdshort.workers.tally).
        yield_p50_s, yield_p95_s: how long it lately took to come to a stand for a hold; None before the first.
    """

    worker_id: str
    pool: str
    host: str
    pid: int
    engine: str
    started_at: float
    at: float
    job: str = ""
    stripe: int = -1
    rows_per_s: float = 0.0
    signal: str = "clear"
    reason: str = ""
    headroom: float = 1.0
    source: str = ""
    held_s: float = 0.0
    device: str = ""
    totals: dict[str, float] = field(default_factory=dict[str, float])
    yield_p50_s: float | None = None
    yield_p95_s: float | None = None

    @property
    def state(self) -> str:
        """ "holding", "working" or "idle"."""
        if self.signal == "hold":
            return "holding"
        return "working" if self.job else "idle"


def beat(store: Store, say: Beat) -> None:
    store.replace(layout.worker(say.pool, say.worker_id), orjson.dumps(asdict(say)))


def goodbye(store: Store, pool: str, worker_id: str) -> None:
    store.delete(layout.worker(pool, worker_id))


def alive(store: Store, pool: str, *, now: float) -> list[Beat]:
    """The workers of a pool that beat lately, by id."""
    return [say for say in _all(store, pool) if now - say.at < ALIVE_S]


def sweep(store: Store, pool: str, *, now: float) -> None:
    """Remove what workers that are long gone left behind."""
    for say in _all(store, pool):
        if now - say.at > 60 * ALIVE_S:
            store.delete(layout.worker(pool, say.worker_id))


def _all(store: Store, pool: str) -> list[Beat]:
    found: list[Beat] = []
    for name in store.list(layout.workers(pool)):
        try:
            found.append(Beat(**orjson.loads(store.read(layout.worker(pool, name)))))
        except ObjectNotFound:
            continue  # it said goodbye between the listing and the reading
    return found
