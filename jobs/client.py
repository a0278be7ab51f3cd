"""The SDK: submit jobs, follow them, read results, steer them."""

from __future__ import annotations

import getpass
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from ..storage.errors import BrokerError, Corrupt, NotAllowedNow, UnknownJob
from ..storage.opening import open_store
from ..storage.patience import PatientStore
from . import presence
from .broker.broker import Broker
from .checkpoints.places import Places
from .explain import Facts, LaneHold, explain
from .holds import Hold, clear_hold, read_hold, set_hold
from .input import InputRow
from .job import Job
from .ledger import Ledger
from .presence import Beat
from .record import JobRecord
from .results import ResultRow, result_shards
from .settings import PoolSettings, Settings
from .settling import settle
from .spec import METADATA_ENTRIES, BatchInferenceJob, CheckpointJob
from .status import Status, StatusReader
from .submitting import accept, publish_open, submit

log = logging.getLogger(__name__)

_PATIENCE_S = 10.0
_LEAST_OF_ID = 4
"""How much of an id one has to write."""


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """A pool at one moment.

    Attributes:
        workers: those alive.
        depth: messages waiting; None when the broker does not answer.
        rows_left: of its active jobs.
        backlog_s: how long its workers need for them at their present rate; None when that is unknown.
    """

    name: str
    settings: PoolSettings
    workers: tuple[Beat, ...]
    hold: Hold | None
    depth: int | None
    active_jobs: int
    rows_left: int
    backlog_s: float | None

    @property
    def held_because(self) -> str | None:
        """Why batch work on it stands still: the operator's hold, or what its workers say; None when it does not."""
        if self.hold is not None:
            return self.hold.reason
        if self.workers and all(worker.signal == "hold" for worker in self.workers):
            return f"{self.workers[0].source}: {self.workers[0].reason}"
        return None


class Client:
    """Access to the jobs of one store, and the broker that brings them to workers.

    Args:
        broker, store: URLs; what is left out comes from HOLDSHORT_BROKER and HOLDSHORT_STORE, from
            holdshort.toml, or is the embedded default.
        settings: all settings at once, instead.

    Raises:
        SettingsError, StoreRefused, StoreUnavailable, BrokerRefused: with what to do.
    """

    def __init__(
        self, *, broker: str | None = None, store: str | None = None, settings: Settings | None = None
    ) -> None:
        self.settings = settings or Settings.load(broker=broker, store=store)
        opened = open_store(self.settings.store, fsync=self.settings.fsync, storage_options=self.settings.store_options)
        self.ledger = Ledger(PatientStore(opened, patience_s=_PATIENCE_S))
        # Submitting looks at the store's own kind, to leave its folder out of an input.
        self._direct = Ledger(opened)
        self.broker = Broker(self.settings)
        self._places = Places.of(self.settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection to the broker."""
        self.broker.close()

    # -- jobs --------------------------------------------------------------------------------------------

    def submit(self, job: BatchInferenceJob | CheckpointJob) -> Job:
        """Submit a job. Once this returns it is accepted and will end, whatever fails.

        Raises:
            RefusedInput: the input, line by line; nothing was accepted.
            UnknownPool, RefusedJob, IdempotencyConflict: nothing was accepted.
            ObjectNotFound: there is no such checkpoint; nothing was accepted.
            StoreUnavailable: nothing was accepted, unless only the answer to the last write was lost. With an
                idempotency key, submitting again is safe.
        """
        record = submit(self._direct, self.broker, self.settings, job, self._places)
        return Job(self, self.ledger, record)

    def job(self, job_id: str) -> Job:
        """The job of this id, or of the only id that starts so. Raises UnknownJob."""
        return Job(self, self.ledger, self._record(job_id))

    def jobs(self, *, active: bool = False) -> Iterator[Status]:
        """The status of all jobs, or of those that have not ended. One that can't be read is only logged."""
        return self._statuses(self.ledger.active() if active else self.ledger.jobs())

    def cancel(self, job_id: str, reason: str = "") -> bool:
        """Cancel a job: rows that are done stay, the others end as cancelled.

        Returns:
            False if that had been asked for, or the job had ended, before.
        """
        record = self._record(job_id)
        if self.ledger.outcome(record.id) is not None or not self.ledger.cancel(record.id, reason):
            return False
        # Stripes that nobody has begun end at once; workers end those in their hands within a second or so.
        begun = self.ledger.turns(record.id)
        for stripe in range(record.stripes):
            if stripe not in begun:
                self.ledger.end_stripe(record, stripe, "cancelled", by="client")
        settle(self.ledger, record, self._places)
        return True

    def pause(self, job_id: str) -> bool:
        """Let a job rest after the micro-batches in hand; False if it was paused. Raises NotAllowedNow."""
        record = self._open_record(job_id)
        return self.ledger.pause(record.id, paused=True)

    def resume(self, job_id: str) -> bool:
        """Let a paused job go on; False if it was not paused. Raises NotAllowedNow."""
        record = self._open_record(job_id)
        self.ledger.queue_again(record.id)
        resumed = self.ledger.pause(record.id, paused=False)
        publish_open(self.ledger, self.broker, record)
        return resumed

    def retry(self, job_id: str) -> Job:
        """Submit the rows of an ended job that did not end as ok, as a new job.

        Asking again for the same job returns the same new job. Raises NotAllowedNow while it runs, or if there
        is nothing to retry.
        """
        record = self._record(job_id)
        status = StatusReader(self.ledger, record).read()
        if not status.has_ended:
            raise NotAllowedNow(f"Job {record.id} is {status.state}; only an ended job can be retried.")
        if record.kind != "batch":
            raise NotAllowedNow(f"Job {record.id} copies a checkpoint; submit it again instead.")
        self.settings.pool(record.pool)
        if status.counts.ok == status.rows:
            raise NotAllowedNow(f"All {status.rows} rows of job {record.id} ended as ok; there is nothing to retry.")
        spec: dict[str, Any] = {
            **record.spec,
            "input": [],
            "idempotency_key": f"retry of {record.id}",
            "deadline": None,
        }
        if len(spec["metadata"]) < METADATA_ENTRIES:
            spec["metadata"] = {**spec["metadata"], "retry_of": record.id}
        fresh = accept(self.ledger, BatchInferenceJob.model_validate(spec), self._failed_rows(record))
        publish_open(self.ledger, self.broker, fresh)
        return Job(self, self.ledger, fresh)

    def recover(self) -> list[str]:
        """Publish the messages of all active jobs again, e.g. after the broker lost its data.

        Finished shards are not run again, and copies of messages do no harm. Returns the jobs' ids.
        Raises BrokerUnavailable.
        """
        self.broker.check()
        found: list[str] = []
        for job_id in list(self.ledger.active()):
            try:
                record = self.ledger.record(job_id)
            except UnknownJob:
                continue
            if settle(self.ledger, record, self._places) is None and not self.ledger.control(job_id).paused:
                publish_open(self.ledger, self.broker, record)
                found.append(job_id)
        return found

    def why(self, job_id: str, *, lane: LaneHold | None = None) -> str:
        """In one sentence, why a job is not running, or what it does.

        Args:
            lane: a hold of its pool's lane that was read just now; without it, the workers' latest word is told.
        """
        record = self._record(job_id)
        status = StatusReader(self.ledger, record).read()
        now = time.time()
        mine = (-status.priority, status.accepted_at)
        ahead = 0 if status.has_ended else sum(
            1
            for other in self.jobs(active=True)
            if other.pool == record.pool and other.id != record.id and (-other.priority, other.accepted_at) < mine
        )  # fmt: skip
        return explain(
            Facts(
                status=status,
                workers=presence.alive(self.ledger.store, record.pool, now=now),
                hold=read_hold(self.ledger.store, record.pool, now=now),
                ahead=ahead,
                depth=self._depth(record.pool),
                unpublished=record.id in self.ledger.unpublished(),
                now=now,
                lane=lane,
            )
        )

    # -- pools -------------------------------------------------------------------------------------------

    def pools(self) -> list[PoolStatus]:
        """The configured pools: workers, queue depth, backlog."""
        return [self._pool(name, settings) for name, settings in self.settings.pools.items()]

    def hold(self, pool: str, *, for_s: float | None = None, reason: str = "", by: str = "") -> Hold:
        """Let batch work on a pool stand still, for a time or until `clear`. Raises UnknownPool."""
        self.settings.pool(pool)
        now = time.time()
        hold = Hold(reason or "no reason given", by or _user(), now, None if for_s is None else now + for_s)
        set_hold(self.ledger.store, pool, hold)
        return hold

    def clear(self, pool: str) -> bool:
        """Take an operator's hold off a pool; False if there was none. Raises UnknownPool."""
        self.settings.pool(pool)
        return clear_hold(self.ledger.store, pool)

    def lane(self, pool: str) -> Hold | None:
        """The operator's hold on a pool, if one is in force. Raises UnknownPool."""
        self.settings.pool(pool)
        return read_hold(self.ledger.store, pool, now=time.time())

    # -- inside ------------------------------------------------------------------------------------------

    def _record(self, job_id: str) -> JobRecord:
        job_id = job_id.lower()
        if _LEAST_OF_ID <= len(job_id) < 26:
            matches = [found for found in self.ledger.jobs() if found.startswith(job_id)]
            if len(matches) == 1:
                job_id = matches[0]
            elif matches:
                raise UnknownJob(
                    f"{job_id} is the start of {len(matches)} jobs: {', '.join(matches[:5])}; write more of it."
                )
        return self.ledger.record(job_id)

    def _open_record(self, job_id: str) -> JobRecord:
        record = self._record(job_id)
        outcome = self.ledger.outcome(record.id)
        if outcome is not None:
            raise NotAllowedNow(f"Job {record.id} has ended: {outcome.state}.")
        return record

    def _failed_rows(self, record: JobRecord) -> Iterator[InputRow]:
        from .input import parse, unpack

        for shard, results in enumerate(result_shards(self.ledger, record, wait=None)):
            for line, result in zip(unpack(self.ledger.input_shard(record, shard)), results, strict=True):
                if ResultRow(result).outcome != "ok":
                    custom_id = parse(line)[0]
                    yield InputRow(custom_id=custom_id, line=line, where=f"job {record.id}, row {custom_id}")

    def _pool(self, name: str, settings: PoolSettings) -> PoolStatus:
        now = time.time()
        workers = tuple(presence.alive(self.ledger.store, name, now=now))
        jobs = rows_left = 0
        for status in self._statuses(self.ledger.active(name)):
            jobs += 1
            rows_left += status.rows - status.done
        rate = sum(worker.rows_per_s for worker in workers)
        backlog_s = 0.0 if rows_left == 0 else rows_left / rate if rate > 0 else None
        hold = read_hold(self.ledger.store, name, now=now)
        return PoolStatus(name, settings, workers, hold, self._depth(name), jobs, rows_left, backlog_s)

    def _statuses(self, job_ids: Iterable[str]) -> Iterator[Status]:
        for job_id in job_ids:
            try:
                yield StatusReader(self.ledger, self.ledger.record(job_id)).read()
            except UnknownJob:
                continue  # listed a moment before it is accepted, or after it was removed
            except Corrupt as error:
                log.warning("job %s is left out: %s", job_id, error)

    def _depth(self, pool: str) -> int | None:
        try:
            return self.broker.depth(pool)
        except BrokerError:
            return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user id, as in some containers
        return "unknown"
