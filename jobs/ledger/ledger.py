"""The record of jobs, shard commits and outcomes, kept in a store.

Nothing here is ever overwritten. Each fact (a job was accepted, a turn was taken, a shard was committed, a
job ended) is one exclusive create, so of any number of processes that try, one succeeds and all see the same.
"""

from __future__ import annotations

import base64
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import orjson

from ...storage.errors import Corrupt, ObjectNotFound, UnknownJob
from ...storage.store import Capabilities, Store
from .. import identity
from ..record import Counts, Ended, JobRecord, Outcome
from . import layout, shards
from .reading import read_as
from .stripe import Stripe
from .turns import Progress, Turn, TurnKey, latest

log = logging.getLogger(__name__)

_RECORDS_KEPT = 256


@dataclass(frozen=True, slots=True)
class Control:
    """What has been said about a job, besides its turns."""

    cancelled: bool = False
    paused: bool = False
    pauses: int = 0
    ended: bool = False


@dataclass(frozen=True, slots=True)
class NotTaken:
    """Why a turn was not taken; the message is done with."""

    reason: str


class Ledger:
    """The jobs of one store.

    Args:
        store: where.
        clock: seconds since the epoch.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        self.store = store
        self.clock = clock
        self._records: dict[str, JobRecord] = {}

    @property
    def capabilities(self) -> Capabilities:
        """What its store was seen to keep; nothing here needs more than exclusive create."""
        return self.store.capabilities

    # -- accepting ---------------------------------------------------------------------------------------

    def put_input(self, job_id: str, upload: str, shard: int, data: bytes) -> None:
        """Store the input lines of one shard; not part of any job until `accept`."""
        self.store.create(layout.input_shard(job_id, upload, shard), data)

    def accept(self, record: JobRecord) -> JobRecord:
        """Make a job exist, or return the one of that id that exists already (compare `digest`).

        Its entries in the index and in the outbox come first, so that no accepted job can be missing there.
        """
        self.store.create(layout.active(record.pool, record.id), b"")
        self.store.create(layout.outbox(record.id), b"")
        if self.store.create(layout.record(record.id), record.encode()):
            self._records.pop(record.id, None)  # of a job that had this id before, and was removed
            return record
        accepted = self.record(record.id)
        if accepted.pool != record.pool:
            self.store.delete(layout.active(record.pool, record.id))
        if self.outcome(record.id) is not None:
            self.forget_active(accepted)
        return accepted

    def drop_upload(self, job_id: str, upload: str) -> None:
        """Remove input that no job uses."""
        self.store.delete_folder(f"{layout.inputs(job_id)}/{upload}")

    def published(self, job_id: str) -> None:
        """Note that a job's messages are with the broker."""
        self.store.delete(layout.outbox(job_id))

    def queue_again(self, job_id: str) -> None:
        """Note that a job's messages may be missing; a controller publishes them."""
        self.store.create(layout.outbox(job_id), b"")

    # -- reading -----------------------------------------------------------------------------------------

    def record(self, job_id: str) -> JobRecord:
        """The job as accepted. Raises UnknownJob."""
        found = self._records.get(job_id)
        if found is None:
            if not identity.is_id(job_id):
                raise UnknownJob(f"{job_id!r} is no job id; `holdshort jobs` lists them.")
            try:
                found = read_as(self.store, layout.record(job_id), JobRecord.decode)
            except ObjectNotFound:
                raise UnknownJob(
                    f"The store {self.store.url} holds no job {job_id}; `holdshort jobs` lists them."
                ) from None
            if len(self._records) >= _RECORDS_KEPT:
                del self._records[next(iter(self._records))]
            self._records[job_id] = found
        return found

    def jobs(self) -> Iterator[str]:
        """Ids of all jobs, ended or not, newest last (those with an idempotency key come last)."""
        for name in self.store.list(layout.JOBS):
            if name.endswith("/"):
                yield name[:-1]

    def active(self, pool: str | None = None) -> Iterator[str]:
        """Ids of the jobs that have not ended."""
        pools = [pool] if pool else [name[:-1] for name in self.store.list(layout.ACTIVE) if name.endswith("/")]
        for name in pools:
            yield from self.store.list(f"{layout.ACTIVE}/{name}")

    def active_pools(self) -> list[str]:
        """Pools that have, or had, active jobs."""
        return [name[:-1] for name in self.store.list(layout.ACTIVE) if name.endswith("/")]

    def unpublished(self) -> list[str]:
        """Ids of the jobs whose messages may not have been published."""
        return self.store.list(layout.OUTBOX)

    def control(self, job_id: str) -> Control:
        """Cancelled, paused, ended: one listing."""
        names = self.store.list(layout.job(job_id))
        pauses = max((int(name.partition(".")[2]) for name in names if name.startswith("pause.")), default=0)
        return Control(
            cancelled="cancel" in names, paused=pauses % 2 == 1, pauses=pauses, ended="outcome.json" in names
        )

    def cancel_reason(self, job_id: str) -> str:
        """What the canceller said; "" without."""
        try:
            return str(orjson.loads(self.store.read(layout.cancel(job_id)))["reason"])
        except (ObjectNotFound, ValueError, TypeError, KeyError):
            return ""

    def outcome(self, job_id: str) -> Outcome | None:
        """How the job ended; None while it has not."""
        try:
            return read_as(self.store, layout.outcome(job_id), Outcome.decode)
        except ObjectNotFound:
            return None

    def input_shard(self, record: JobRecord, shard: int) -> bytes:
        """The stored input lines of a shard. Raises ObjectNotFound."""
        if record.inline:
            return base64.b64decode(record.inline)
        return self.store.read(layout.input_shard(record.id, record.upload, shard))

    def committed(self, job_id: str) -> list[int]:
        """Indexes of the shards that are committed, sorted."""
        return [layout.parse_shard(name) for name in self.store.list(layout.shards(job_id))]

    def shard(self, job_id: str, shard: int) -> tuple[shards.Summary, list[bytes]]:
        """Summary and result lines of a committed shard. Raises ObjectNotFound, Corrupt."""
        return read_as(self.store, layout.shard(job_id, shard), shards.decode)

    def summary(self, job_id: str, shard: int) -> shards.Summary:
        """Only the summary of a committed shard: one small read. Raises ObjectNotFound, Corrupt."""
        return read_as(self.store, layout.shard(job_id, shard), shards.summary, first=shards.SUMMARY_BYTES)

    def turns(self, job_id: str) -> dict[int, Turn]:
        """The latest turn of each stripe that has one: one listing and one read per stripe."""
        keys = latest(self.store.list(layout.turns(job_id)))
        return {stripe: self._turn(job_id, stripe, key) for stripe, key in keys.items()}

    def turns_taken_again(self, job_id: str) -> list[tuple[int, Turn]]:
        """(stripe, turn) of each turn that was taken because the worker before had died, in no order."""
        keys = [layout.parse_turn(name) for name in self.store.list(layout.turns(job_id))]
        return [
            (stripe, self._turn(job_id, stripe, TurnKey(number, delivery)))
            for stripe, number, delivery in keys
            if delivery > 0
        ]

    def next_turns(self, record: JobRecord) -> dict[int, int]:
        """The number that the next message of each stripe has to carry, for stripes that have not ended."""
        taken = self.turns(record.id)
        return {
            stripe: taken[stripe].key.number + 1 if stripe in taken else 1
            for stripe in range(record.stripes)
            if stripe not in taken or taken[stripe].ended is None
        }

    # -- advancing ---------------------------------------------------------------------------------------

    def take_turn(
        self,
        record: JobRecord,
        stripe: int,
        number: int,
        *,
        worker: str,
        redelivered: bool = False,
        hint: Progress = Progress(),  # noqa: B008 - immutable
    ) -> Stripe | NotTaken:
        """Take the turn that a message offers.

        Args:
            redelivered: the broker says that the message was delivered before and not acknowledged.
            hint: progress that the message carries; saves looking through what earlier turns committed.
                One that the ledger does not bear out is not used.

        Returns:
            The stripe to work on, or why there is nothing to do for this message.
        """
        if not 0 <= stripe < record.stripes:
            return NotTaken(f"job {record.id} has no stripe {stripe}")
        key = latest(self.store.list(layout.turns(record.id))).get(stripe)
        progress, delivery = Progress(), 0
        if key is not None:
            previous = self._turn(record.id, stripe, key)
            if previous.ended is not None:
                return NotTaken(f"stripe {stripe} has ended ({previous.ended})")
            if key.number > number:
                return NotTaken(f"turn {number} is stale: turn {key.number} was taken")
            if key.number == number:
                if not redelivered:
                    return NotTaken(f"turn {number} was taken by {previous.worker}")
                delivery = key.delivery + 1
            progress = previous.progress
        progress, done_ahead = self._caught_up(record, stripe, progress, hint)
        turn = Turn(TurnKey(number, delivery), worker, self.clock(), progress, token=secrets.token_hex(8))
        if not self._create_turn(record.id, stripe, turn):
            return NotTaken(f"turn {number} was taken by somebody else at the same time")
        return Stripe(self.store, record, stripe, turn, done_ahead)

    def end_stripe(self, record: JobRecord, stripe: int, ended: Ended, *, by: str) -> bool:
        """End a stripe that nobody may be working on, by taking its next turn; False if it had ended.

        A worker that still holds an earlier turn sees that and stops; what it commits later does not count.
        """
        key = latest(self.store.list(layout.turns(record.id))).get(stripe)
        progress = Progress()
        if key is not None:
            previous = self._turn(record.id, stripe, key)
            if previous.ended is not None:
                return False
            progress = previous.progress
        progress, _ = self._caught_up(record, stripe, progress, progress)
        left = stripe_rows(record, stripe) - progress.counts.total
        if left == 0:
            ended = "completed"
        final = Turn(
            TurnKey(key.number + 1 if key else 1, 0),
            by,
            self.clock(),
            Progress(progress.position, progress.counts + left_over(ended, left)),
            ended=ended,
            token=secrets.token_hex(8),
        )
        return self._create_turn(record.id, stripe, final)

    # -- ending ------------------------------------------------------------------------------------------

    def settle(self, record: JobRecord, *, state: Callable[[Outcome], Outcome] | None = None) -> Outcome | None:
        """Write the outcome if all stripes have ended; returns the outcome if there is one.

        Args:
            state: may look at the outcome before it is written and change its state or reason, e.g. because
                something that only a complete job needs could not be done. Called at least once.
        """
        found = self.outcome(record.id)
        if found is None:
            turns = self.turns(record.id)
            ended = [turns[stripe].ended for stripe in sorted(turns)]
            if len(turns) < record.stripes or None in ended:
                return None
            counts = sum((turn.progress.counts for turn in turns.values()), Counts())
            if counts.total != record.rows:
                raise Corrupt(
                    f"job {record.id} accepted {record.rows} rows but accounts for {counts.total}; "
                    f"this is a defect of Holdshort or of the store, the job is left as it is"
                )
            how = "cancelled" if counts.cancelled else "expired" if counts.expired else "completed"
            found = Outcome(
                state=how,
                counts=counts,
                ended_at=self.clock(),
                positions=tuple(turns[stripe].progress.position for stripe in range(record.stripes)),
                ended=tuple(turns[stripe].ended or "completed" for stripe in range(record.stripes)),
                reason=self.cancel_reason(record.id) if how == "cancelled" else "",
            )
            if state is not None:
                found = state(found)
            if record.webhook:
                self.store.create(layout.webhook_due(record.id), b"")
            if not self.store.create(layout.outcome(record.id), found.encode()):
                found = self.outcome(record.id)
        self.forget_active(record)
        return found

    def forget_active(self, record: JobRecord) -> None:
        """Take an ended job out of the index and the outbox."""
        self.store.delete(layout.outbox(record.id))
        self.store.delete(layout.active(record.pool, record.id))

    def cancel(self, job_id: str, reason: str) -> bool:
        """Ask for a job to be cancelled; False if somebody had asked before."""
        data = orjson.dumps({"reason": reason, "at": self.clock()})
        return self.store.create(layout.cancel(job_id), data)

    def pause(self, job_id: str, *, paused: bool) -> bool:
        """Pause or resume a job; False if it was so already."""
        while True:
            control = self.control(job_id)
            if control.paused == paused:
                return False
            if self.store.create(layout.pause(job_id, control.pauses + 1), b""):
                return True

    def sweep(self, record: JobRecord) -> None:
        """Remove what an ended job no longer needs: partial results, attempts, all but the last turns."""
        self.store.delete_folder(layout.partials(record.id))
        self.store.delete_folder(layout.attempts(record.id))
        names = self.store.list(layout.turns(record.id))
        keep = {layout.turn("", stripe, *key).rpartition("/")[2] for stripe, key in latest(names).items()}
        for name in names:
            if name not in keep:
                self.store.delete(f"{layout.turns(record.id)}/{name}")

    def remove(self, record: JobRecord) -> None:
        """Remove an ended job with its input and results. Its record goes last, so it can be repeated."""
        self.forget_active(record)
        folder = layout.job(record.id)
        for name in self.store.list(folder):
            if name.endswith("/"):
                self.store.delete_folder(f"{folder}/{name[:-1]}")
            elif name != "job.json":
                self.store.delete(f"{folder}/{name}")
        self.store.delete_folder(folder)
        self._records.pop(record.id, None)

    # -- inside ------------------------------------------------------------------------------------------

    def _turn(self, job_id: str, stripe: int, key: TurnKey) -> Turn:
        return read_as(self.store, layout.turn(job_id, stripe, *key), Turn.decode)

    def _create_turn(self, job_id: str, stripe: int, turn: Turn) -> bool:
        path, data = layout.turn(job_id, stripe, *turn.key), turn.encode()
        # A create whose answer got lost and that was sent again finds its own object there.
        return self.store.create(path, data) or self.store.read(path) == data

    def _caught_up(
        self, record: JobRecord, stripe: int, progress: Progress, hint: Progress
    ) -> tuple[Progress, frozenset[int]]:
        """Progress moved past the shards that are committed, and the committed ones beyond a gap."""
        wanted = record.stripe_shards(stripe)
        committed = {shard for shard in self.committed(record.id) if shard in wanted}
        if progress.position < hint.position <= len(wanted):
            claimed = wanted[: hint.position]
            rows = sum(record.shard_size(shard) for shard in claimed)
            if rows == hint.counts.total and committed.issuperset(claimed):
                progress = hint
        position, counts = progress.position, progress.counts
        while position < len(wanted) and wanted[position] in committed:
            counts += self.summary(record.id, wanted[position]).counts
            position += 1
        ahead = frozenset(shard for shard in committed if wanted.index(shard) > position)
        return Progress(position, counts), ahead


def stripe_rows(record: JobRecord, stripe: int) -> int:
    """Rows of all shards of a stripe."""
    return sum(record.shard_size(shard) for shard in record.stripe_shards(stripe))


def left_over(ended: Ended, rows: int) -> Counts:
    """Counts of rows that were not reached when their stripe ended."""
    match ended:
        case "cancelled":
            return Counts(cancelled=rows)
        case "expired":
            return Counts(expired=rows)
        case "completed":
            return Counts()
