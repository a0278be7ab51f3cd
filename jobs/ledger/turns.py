"""Turns: who may advance a stripe.

A message says "advance stripe k of job J, turn t". Taking the turn creates an object of that name, so of
several copies of one message only one is worked on, and a message whose successor has been taken is stale.
A message that is delivered again because its worker died finds its turn taken; it takes the turn's next
delivery instead, which also counts, durably, how often that message has killed or lost a worker.

Whoever holds a turn looks between shards whether a later one has been taken, and stops if so. So any process
may move a stripe elsewhere, raise its priority or end it, simply by taking or publishing its next turn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, cast

import orjson

from ...storage.errors import Corrupt
from ..record import Counts, Ended
from . import layout


class TurnKey(NamedTuple):
    """Which turn: later ones compare greater."""

    number: int
    delivery: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stripe is: its first `position` shards are committed, with these counts.

    True for ever once true, since a shard is committed once and stripes go in order; so any old copy of it
    may be used as a place to look on from.
    """

    position: int = 0
    counts: Counts = field(default_factory=Counts)


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn that was taken, as its object says.

    Attributes:
        key: number and delivery.
        worker: who took it.
        taken_at: seconds since the epoch.
        progress: of the stripe at that time.
        ended: set on the last turn of a stripe: no more work follows.
        token: makes the object unlike that of any other taker.
    """

    key: TurnKey
    worker: str
    taken_at: float
    progress: Progress
    ended: Ended | None = None
    token: str = ""

    def encode(self) -> bytes:
        return orjson.dumps({**asdict(self), "key": list(self.key)})

    @classmethod
    def decode(cls, data: bytes) -> Turn:
        """The turn of these bytes. Raises Corrupt."""
        try:
            found: dict[str, Any] = orjson.loads(data)
            progress = found.pop("progress")
            key = TurnKey(*found.pop("key"))
            return cls(key=key, progress=Progress(progress["position"], Counts(**progress["counts"])), **found)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Corrupt(f"a turn can't be read: {error!r}") from error


def latest(names: Iterable[str]) -> dict[int, TurnKey]:
    """The latest turn of each stripe that has one, from the names of all turns of a job."""
    found: dict[int, TurnKey] = {}
    for name in names:
        stripe, number, delivery = layout.parse_turn(name)
        key = TurnKey(number, delivery)
        if stripe not in found or key > found[stripe]:
            found[stripe] = key
    return found


def progress_hint(progress: Progress) -> list[int]:
    """Progress as a message carries it."""
    counts = progress.counts
    return [progress.position, counts.ok, counts.error, counts.expired, counts.cancelled]


def parse_hint(hint: object) -> Progress:
    """Progress from a message; none for a message without or with one of another form."""
    if isinstance(hint, list):
        values = cast("list[object]", hint)
        if len(values) == 5 and all(isinstance(value, int) and value >= 0 for value in values):
            position, *counts = cast("list[int]", values)
            return Progress(position, Counts(*counts))
    return Progress()
