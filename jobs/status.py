"""Where a job stands."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from .ledger import Ledger, Turn
from .policy.urgency import priority_now
from .record import Counts, JobKind, JobRecord, Outcome

State = Literal["queued", "running", "paused", "cancelling", "completed", "failed", "cancelled", "expired"]
TERMINAL: frozenset[str] = frozenset({"completed", "failed", "cancelled", "expired"})


@dataclass(frozen=True, slots=True)
class Status:
    """A job at one moment.

    Attributes:
        priority: now, with what age and deadline added; 0 to 9.
        counts: rows that have ended, by how.
        accepted_at, deadline_at, ended_at: seconds since the epoch.
        workers: who took the latest turns of its open stripes.
        bytes_done, bytes_total: of a checkpoint job: what its shards that have ended move, and all of them; else None.
    """

    id: str
    kind: JobKind
    pool: str
    state: State
    priority: int
    rows: int
    counts: Counts
    accepted_at: float
    deadline_at: float | None
    ended_at: float | None
    reason: str
    stripes: int
    workers: tuple[str, ...]
    metadata: dict[str, str]
    bytes_done: int | None = None
    bytes_total: int | None = None

    @property
    def done(self) -> int:
        """Rows that have ended."""
        return self.counts.total

    @property
    def has_ended(self) -> bool:
        return self.state in TERMINAL

    @property
    def all_ok(self) -> bool:
        """Whether the job completed with every row answered."""
        return self.state == "completed" and self.counts.ok == self.rows

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "counts": self.counts.as_dict(), "done": self.done}


class StatusReader:
    """Reads one job's status again and again, remembering what can't change any more."""

    def __init__(self, ledger: Ledger, record: JobRecord) -> None:
        self._ledger = ledger
        self._record = record
        self._shard_counts: dict[int, Counts] = {}

    def read(self) -> Status:
        ledger, record = self._ledger, self._record
        outcome = ledger.outcome(record.id)
        if outcome is not None:
            return self._ended(outcome)
        control = ledger.control(record.id)
        turns = ledger.turns(record.id)
        open_turns = [turn for turn in turns.values() if turn.ended is None]
        state: State = "running" if turns else "queued"
        if control.cancelled:
            state = "cancelling"
        elif control.paused:
            state = "paused"
        waiting_since = max((turn.taken_at for turn in turns.values()), default=record.accepted_at)
        return self._status(
            state,
            *self._counts(turns),
            priority=priority_now(record, now=ledger.clock(), waiting_since=waiting_since),
            workers=tuple(sorted({turn.worker for turn in open_turns})),
        )

    def _ended(self, outcome: Outcome) -> Status:
        record = self._record
        done = (
            shard
            for stripe, position in enumerate(outcome.positions)
            for shard in record.stripe_shards(stripe)[:position]
        )
        return self._status(
            outcome.state,
            outcome.counts,
            record.bytes_of(done),
            priority=self._record.priority,
            ended_at=outcome.ended_at,
            reason=outcome.reason,
        )

    def _status(
        self,
        state: State,
        counts: Counts,
        bytes_done: int,
        *,
        priority: int,
        ended_at: float | None = None,
        reason: str = "",
        workers: tuple[str, ...] = (),
    ) -> Status:
        record = self._record
        return Status(
            id=record.id,
            kind=record.kind,
            pool=record.pool,
            state=state,
            priority=priority,
            rows=record.rows,
            counts=counts,
            accepted_at=record.accepted_at,
            deadline_at=record.deadline_at,
            ended_at=ended_at,
            reason=reason,
            stripes=record.stripes,
            workers=workers,
            metadata=dict(record.spec.get("metadata") or {}),
            bytes_done=None if record.size_bytes is None else bytes_done,
            bytes_total=record.size_bytes,
        )

    def _counts(self, turns: dict[int, Turn]) -> tuple[Counts, int]:
        """Counts of each stripe's last turn, and of the shards committed since; and the bytes of all of these."""
        record = self._record
        total = sum((turn.progress.counts for turn in turns.values()), Counts())
        done = {
            shard for stripe, turn in turns.items() for shard in record.stripe_shards(stripe)[: turn.progress.position]
        }
        for shard in self._ledger.committed(record.id):
            turn = turns.get(shard % record.stripes)
            if shard in done or (turn is not None and turn.ended is not None):
                continue
            if shard not in self._shard_counts:
                self._shard_counts[shard] = self._ledger.summary(record.id, shard).counts
            total += self._shard_counts[shard]
            done.add(shard)
        return total, record.bytes_of(done)
