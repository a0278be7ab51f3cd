"""Sweeps the ledger: publishes, promotes, expires, settles, tidies. Several may run, one leads.

All it does can be done twice, or by others at the same time, without harm.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from ...storage.errors import BrokerUnavailable, Corrupt, StoreError, UnknownJob
from ...storage.local import LocalStore
from ...storage.opening import open_store
from .. import presence
from ..broker.broker import Broker
from ..broker.message import Message
from ..checkpoints.abandoned import sweep_unfinished
from ..checkpoints.ending import drop_left
from ..checkpoints.places import Places
from ..identity import created_at, new_id
from ..ledger import Ledger, Turn, layout
from ..policy.urgency import AGE_STEP_S, priority_now
from ..record import Ended, JobRecord
from ..settings import Settings
from ..settling import settle
from ..submitting import publish_open
from .lease import Lease
from .webhooks import WebhookSender

log = logging.getLogger(__name__)

TICK_S = 0.5
OUTBOX_AGE_S = 2.0
"""An entry this old was not published by its submitter."""
LOOK_EVERY_S = 2.0
LOOKS_PER_S = 50.0
LOST_AFTER_S = 10.0
"""A stripe that waits for so long while its pool's queue is empty has lost its message."""
END_GRACE_S = 5.0
"""How long workers have for ending a stripe in their hands themselves, keeping its open shard."""
TIDY_EVERY_S = 3600.0
ORPHAN_AGE_S = 86400.0
_END = -1
"""In place of a stripe: the end of a job all of whose stripes have ended."""


@contextmanager
def _of_one_job(job_id: str) -> Generator[None]:
    """A job whose objects are damaged needs a person; the others must not wait for that."""
    try:
        yield
    except Corrupt as error:
        log.error("job %s is left as it is: %s", job_id, error)  # noqa: TRY400 - no defect of ours


class Controller:
    """The housekeeping of one store.

    Args:
        settings: which store and broker.
        clock: seconds since the epoch.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self.store = open_store(settings.store, fsync=settings.fsync, storage_options=settings.store_options)
        self.ledger = Ledger(self.store, clock=clock)
        self.broker = Broker(settings)
        self.lease = Lease(self.store, new_id(), clock=clock)
        self.webhooks = WebhookSender(self.ledger, settings.webhook_secret, clock=clock)
        self._places = Places.of(settings)
        self._clock = clock
        self._seen: dict[str, float] = {}
        self._looked: dict[str, float] = {}
        self._ending: dict[str, float] = {}
        self._republished: dict[tuple[str, int], float] = {}
        self._empty: dict[str, bool] = {}
        self._tidied = float("-inf")

    def run(self, stop: threading.Event) -> None:
        """Sweep until told to stop; waits for a store or broker that is away."""
        hooks = threading.Thread(target=self._send_webhooks, args=(stop,), name="webhooks", daemon=True)
        hooks.start()
        while not stop.wait(TICK_S):
            try:
                if self.lease.held():
                    self.sweep()
            except (StoreError, BrokerUnavailable) as error:
                log.warning("the controller waits: %s", error)
            except Exception:
                # A defect must not stop the housekeeping of all jobs; it is told, and tried again.
                log.exception("the controller failed and goes on")
        try:
            self.lease.release()
        except StoreError as error:
            log.warning("the lease runs out by itself: %s", error)
        hooks.join(timeout=15)
        self.close()

    def close(self) -> None:
        """Close the connections to the broker and to webhooks."""
        self.broker.close()
        self.webhooks.close()

    def sweep(self) -> None:
        """One round."""
        now = time.monotonic()
        self._empty.clear()
        self._publish_outbox(now)
        active = list(self.ledger.active())
        every_s = max(LOOK_EVERY_S, len(active) / LOOKS_PER_S)
        for job_id in active:
            if now - self._looked.get(job_id, float("-inf")) >= every_s:
                self._looked[job_id] = now
                with _of_one_job(job_id):
                    self._look_at(job_id, now)
        self._forget(set(active))
        if now - self._tidied >= TIDY_EVERY_S:
            self._tidied = now
            self.tidy()

    # -- publishing --------------------------------------------------------------------------------------

    def _publish_outbox(self, now: float) -> None:
        entries = self.ledger.unpublished()
        for job_id in entries:
            if now - self._seen.setdefault(job_id, now) < OUTBOX_AGE_S:
                continue
            with _of_one_job(job_id):
                self._publish_one(job_id)
        for job_id in self._seen.keys() - set(entries):
            del self._seen[job_id]

    def _publish_one(self, job_id: str) -> None:
        try:
            record = self.ledger.record(job_id)
        except UnknownJob:
            return  # its input is still being written, or never was; `tidy` decides
        control = self.ledger.control(job_id)
        if control.ended or control.paused:
            self.ledger.published(job_id)
        elif publish_open(self.ledger, self.broker, record):
            log.info("published what job %s was missing", job_id)

    def _promote(self, record: JobRecord, turns: dict[int, Turn]) -> None:
        """Publish stripes that have waited for long again, with the priority that they have by now.

        That also brings back a message that got lost. A copy costs its worker one look.
        """
        now = self._clock()
        for stripe in range(record.stripes):
            turn = turns.get(stripe)
            if turn is not None and turn.ended is not None:
                continue
            since = turn.taken_at if turn else record.accepted_at
            last = max(since, self._republished.get((record.id, stripe), since))
            before = priority_now(record, now=last, waiting_since=since)
            wanted = priority_now(record, now=now, waiting_since=since)
            in_hand = turn is not None and now - since < self.settings.quantum_s + 60.0
            if in_hand:
                continue
            lost = now - last >= LOST_AFTER_S and self._queue_is_empty(record.pool)
            if wanted <= before and now - last < AGE_STEP_S and not lost:
                continue
            self._republished[(record.id, stripe)] = now
            number = turn.key.number + 1 if turn else 1
            # One beyond what waits, so that this one makes the waiting one stale once it is taken.
            self.broker.publish([Message(record.pool, record.id, stripe, number + 1, wanted)])
            log.info("stripe %s of job %s is published with priority %s", stripe, record.id, wanted)

    def _ask_for_the_end(self, record: JobRecord, turns: dict[int, Turn]) -> None:
        """Let a worker end a job that only a worker can end, should the one that did its last row have died."""
        now, key = self._clock(), (record.id, _END)
        asked_at = self._republished.get(key)
        since = asked_at or max(turn.taken_at for turn in turns.values())
        if now - since >= LOST_AFTER_S and (asked_at is None or self._queue_is_empty(record.pool)):
            self._republished[key] = now
            publish_open(self.ledger, self.broker, record)

    def _queue_is_empty(self, pool: str) -> bool:
        if pool not in self._empty:
            self._empty[pool] = self.broker.depth(pool) == 0
        return self._empty[pool]

    # -- ending ------------------------------------------------------------------------------------------

    def _look_at(self, job_id: str, now: float) -> None:
        try:
            record = self.ledger.record(job_id)
        except UnknownJob:
            return
        control = self.ledger.control(job_id)
        expired = record.deadline_at is not None and self._clock() >= record.deadline_at
        if control.cancelled or expired:
            self._end(record, "cancelled" if control.cancelled else "expired", now)
        if settle(self.ledger, record, self._places) is not None:
            return
        turns = self.ledger.turns(job_id)
        if len(turns) == record.stripes and all(turn.ended is not None for turn in turns.values()):
            self._ask_for_the_end(record, turns)
        elif not (control.paused or control.cancelled or expired):
            self._promote(record, turns)

    def _end(self, record: JobRecord, ended: Ended, now: float) -> None:
        since = self._ending.setdefault(record.id, now)
        turns = self.ledger.turns(record.id)
        for stripe in range(record.stripes):
            if stripe not in turns or now - since >= END_GRACE_S:
                self.ledger.end_stripe(record, stripe, ended, by="controller")

    def _forget(self, active: set[str]) -> None:
        for known in (self._looked, self._ending):
            for job_id in known.keys() - active:
                del known[job_id]
        for job_id, stripe in [key for key in self._republished if key[0] not in active]:
            del self._republished[(job_id, stripe)]

    def _send_webhooks(self, stop: threading.Event) -> None:
        while not stop.wait(TICK_S):
            try:
                if self.lease.leads:
                    self.webhooks.send_due(stop)
            except StoreError as error:
                log.warning("webhooks wait: %s", error)
            except Exception:
                log.exception("sending webhooks failed and goes on")

    # -- tidying -----------------------------------------------------------------------------------------

    def tidy(self) -> None:
        """Remove ended jobs past their retention, uploads that became no job, and what the dead left behind."""
        now = self._clock()
        for job_id in list(self.ledger.jobs()):
            with _of_one_job(job_id):
                self._tidy_one(job_id, now)
        for pool in {*self.settings.pools, *self.ledger.active_pools()}:
            presence.sweep(self.store, pool, now=now)
        sweep_unfinished(self.ledger, now=now)
        if isinstance(self.store, LocalStore):
            self.store.sweep_temporary()

    def _tidy_one(self, job_id: str, now: float) -> None:
        try:
            record = self.ledger.record(job_id)
        except UnknownJob:
            self._remove_orphan(job_id, now)
            return
        outcome = self.ledger.outcome(job_id)
        if outcome is None:
            return
        if now - outcome.ended_at >= self.settings.retention_s:
            log.info("job %s is removed: it ended more than %.0f s ago", job_id, self.settings.retention_s)
            self.ledger.remove(record)
        else:
            self.ledger.sweep(record)
            if record.kind == "checkpoint" and now - outcome.ended_at < ORPHAN_AGE_S:
                drop_left(self.ledger, record, self._places)

    def _remove_orphan(self, job_id: str, now: float) -> None:
        """Remove uploads that are a day old and belong to no job (their names tell their age)."""
        folder = layout.inputs(job_id)
        for name in self.store.list(folder):
            made = created_at(name.rstrip("/"))
            if made is not None and now - made >= ORPHAN_AGE_S:
                self.store.delete_folder(f"{folder}/{name.rstrip('/')}")
                for pool in self.ledger.active_pools():
                    self.store.delete(layout.active(pool, job_id))
                self.store.delete(layout.outbox(job_id))
                log.info("the upload %s, which became no job, is removed", name.rstrip("/"))
