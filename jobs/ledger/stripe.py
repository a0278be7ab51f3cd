"""A stripe while somebody holds its turn: which shard is next, what is committed, what was tried."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from ...storage.errors import Corrupt, ObjectNotFound
from ...storage.store import Store
from ..record import Counts, Ended, JobRecord
from . import layout, shards
from .reading import read_as
from .turns import Progress, Turn, TurnKey, latest

log = logging.getLogger(__name__)

_TRIES = b"!"
"""Begins the key of a count of tries among the saved lines."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What was running in a shard when its process died: rows `first` to before `end`, by place in the shard."""

    first: int
    end: int


class Stripe:
    """The shards k, k+n, k+2n … of a job, worked on in that order under one turn.

    Committing goes through here, so progress and counts are always those of the ledger.
    """

    def __init__(self, store: Store, record: JobRecord, index: int, turn: Turn, done_ahead: frozenset[int]) -> None:
        self.record = record
        self.index = index
        self.turn = turn
        self.progress = turn.progress
        self._store = store
        self._shards = record.stripe_shards(index)
        self._done_ahead = done_ahead
        self._partials = 0
        self._noted = ""
        self._skip_committed()

    @property
    def next_shard(self) -> int | None:
        """Index of the first shard that is not committed; None when all are."""
        position = self.progress.position
        return self._shards[position] if position < len(self._shards) else None

    def commit(self, shard: int, summary: shards.Summary, lines: list[bytes]) -> bool:
        """Commit the results of `next_shard`; False if somebody else had committed it (those count then)."""
        if shard != self.next_shard:
            raise ValueError(f"shard {shard} is not the next one of stripe {self.index}")
        created = self._store.create(layout.shard(self.record.id, shard), shards.encode(summary, lines))
        self._advance(summary.counts if created else self._committed_counts(shard))
        self._skip_committed()
        return created

    def end(self, ended: Ended, *, at: float) -> bool:
        """Take the stripe's last turn; False if a later turn than ours has been taken meanwhile."""
        if self.is_superseded():
            return False
        rows = sum(self.record.shard_size(shard) for shard in self._shards)
        left = rows - self.progress.counts.total
        counts = {"cancelled": Counts(cancelled=left), "expired": Counts(expired=left)}.get(ended, Counts())
        final = Turn(
            TurnKey(self.turn.key.number + 1, 0),
            self.turn.worker,
            at,
            Progress(self.progress.position, self.progress.counts + counts),
            ended=ended,
            token=secrets.token_hex(8),
        )
        path, data = layout.turn(self.record.id, self.index, *final.key), final.encode()
        return self._store.create(path, data) or self._holds(path, data)

    def is_superseded(self) -> bool:
        """Whether a later turn than ours has been taken: then this one has to stop."""
        key = latest(self._store.list(layout.turns(self.record.id))).get(self.index)
        return key is not None and key > self.turn.key

    # -- what a shard has behind it ----------------------------------------------------------------------

    def attempts(self, shard: int) -> list[Attempt]:
        """What was running in this shard each time a process died."""
        names = layout.of_shard(self._store.list(layout.attempts(self.record.id)), shard)
        folder = layout.attempts(self.record.id)
        found: list[Attempt] = []
        for name in names:
            try:
                first, end, _ = orjson.loads(self._store.read(f"{folder}/{name}"))
            except (ObjectNotFound, ValueError, TypeError):
                continue  # forgotten meanwhile; or cut off by a loss of power, which no row is to blame for
            found.append(Attempt(first, end))
        return found

    def note_attempt(self, shard: int, attempt: Attempt) -> None:
        """Note durably what is about to run; it stays noted unless `forget_attempt` takes it back."""
        # The token tells our own object, from a create whose answer got lost, from somebody else's.
        data = orjson.dumps([attempt.first, attempt.end, secrets.token_hex(8)])
        number = len(layout.of_shard(self._store.list(layout.attempts(self.record.id)), shard)) + 1
        while True:
            path = layout.attempt(self.record.id, shard, number)
            if self._store.create(path, data) or self._holds(path, data):
                self._noted = path
                return
            number += 1

    def forget_attempt(self) -> None:
        """The attempt noted last went well."""
        self._store.delete(self._noted)

    def save_partial(self, shard: int, lines: dict[int, bytes], tries: dict[int, int] | None = None) -> None:
        """Save what is known of a shard that can't be committed yet, by place in the shard.

        Args:
            lines: result lines.
            tries: how often rows without a line have failed, so that the next turn goes on counting.
        """
        if not lines and not tries:
            return
        coded = [b"%d\t%s" % (place, line) for place, line in sorted(lines.items())]
        coded += [b"%s%d\t%d" % (_TRIES, place, count) for place, count in sorted((tries or {}).items())]
        path = layout.partial(self.record.id, shard, *self.turn.key, self._partials)
        self._partials += 1
        self._store.create(path, shards.compress(coded))

    def partial(self, shard: int) -> dict[int, bytes]:
        """Result lines that earlier turns (or this one) saved, by place in the shard."""
        found: dict[int, bytes] = {}
        for key, line in self._saved(shard):
            if not key.startswith(_TRIES):
                found.setdefault(int(key), line)
        return found

    def tries(self, shard: int) -> dict[int, int]:
        """How often rows had failed when earlier turns (or this one) saved them, by place in the shard."""
        found: dict[int, int] = {}
        for key, count in self._saved(shard):
            if key.startswith(_TRIES):
                place = int(key.removeprefix(_TRIES))
                found[place] = max(found.get(place, 0), int(count))
        return found

    def drop_partial(self, shard: int) -> None:
        """Remove what `save_partial` saved of a shard, and its attempts; it is committed now."""
        for folder in (layout.partials(self.record.id), layout.attempts(self.record.id)):
            for name in layout.of_shard(self._store.list(folder), shard):
                self._store.delete(f"{folder}/{name}")

    # -- inside ------------------------------------------------------------------------------------------

    def _saved(self, shard: int) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of all that was saved of a shard, oldest first."""
        folder = layout.partials(self.record.id)
        for name in layout.of_shard(self._store.list(folder), shard):
            try:
                saved = read_as(self._store, f"{folder}/{name}", shards.decompress)
            except ObjectNotFound:
                continue  # somebody else committed the shard meanwhile and tidied up
            except Corrupt as error:
                log.warning("%s; its rows are run again", error)
                continue
            for coded in saved:
                key, _, value = coded.partition(b"\t")
                yield key, value

    def _advance(self, counts: Counts) -> None:
        self.progress = Progress(self.progress.position + 1, self.progress.counts + counts)

    def _skip_committed(self) -> None:
        while (shard := self.next_shard) is not None and shard in self._done_ahead:
            self._advance(self._committed_counts(shard))

    def _committed_counts(self, shard: int) -> Counts:
        path = layout.shard(self.record.id, shard)
        return read_as(self._store, path, shards.summary, first=shards.SUMMARY_BYTES).counts

    def _holds(self, path: str, data: bytes) -> bool:
        try:
            return self._store.read(path) == data
        except ObjectNotFound:
            return False
