"""The ledger under everything that queues and workers can do to it, in any order."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from holdshort.jobs.broker.message import Message
from holdshort.jobs.ledger import Ledger, NotTaken, Progress, Stripe, layout
from holdshort.jobs.record import Counts, JobRecord, Outcome
from holdshort.jobs.results import ResultRow, result_shards
from holdshort.jobs.status import StatusReader
from holdshort.storage.local import LocalStore
from support.jobs import accept, custom_id, make_record, result_line, shard_result

_T = TypeVar("_T")

PICK = st.integers(0, 999)
SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=7)


class Watched:
    """A store that notes every exclusive create, and can interfere with the next one.

    Attributes:
        before_turn: called once, just before the next turn is created: what happens in between then.
        lose_answer: the next create succeeds, but its answer is lost and its repetition finds the object.
    """

    def __init__(self, behind: LocalStore) -> None:
        self._behind = behind
        self.before_turn: Callable[[], None] | None = None
        self.lose_answer = False
        self.created: dict[str, bytes] = {}
        self.url = behind.url

    def create(self, path: str, data: bytes) -> bool:
        act, is_turn = self.before_turn, "/turns/" in path
        if act is not None and is_turn:
            self.before_turn = None
            act()
        created = self._behind.create(path, data)
        if created and ("/shards/" in path or is_turn or path.endswith("/outcome.json")):
            assert path not in self.created, f"{path} was created twice"
            self.created[path] = data
        if created and self.lose_answer:
            self.lose_answer = False
            return False
        return created

    def read(self, path: str, *, first: int | None = None) -> bytes:
        return self._behind.read(path, first=first)

    def list(self, folder: str) -> list[str]:
        return self._behind.list(folder)

    def delete(self, path: str) -> None:
        self._behind.delete(path)

    def delete_folder(self, folder: str) -> None:
        self._behind.delete_folder(folder)

    def replace(self, path: str, data: bytes) -> None:
        raise AssertionError("the ledger replaces nothing")

    def upload(self, path: str, parts: Iterable[bytes]) -> None:
        raise AssertionError("the ledger uploads nothing")

    def read_parts(self, path: str, part_bytes: int = 0) -> Iterator[bytes]:
        raise AssertionError("the ledger reads no parts")


@dataclass(eq=False)
class Queued:
    """A message with the broker."""

    message: Message
    redelivered: bool = False
    is_lost: bool = False


@dataclass(eq=False)
class Worker:
    """Somebody who holds a message and its turn."""

    queued: Queued
    stripe: Stripe


@dataclass(eq=False)
class Job:
    record: JobRecord
    outcome: Outcome | None = None
    lines: list[list[bytes]] = field(default_factory=list)
    done: int = 0


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.store = Watched(LocalStore(self._folder.name))
        clock = itertools.count(1)
        self.ledger = Ledger(self.store, clock=lambda: float(next(clock)))
        self.jobs: list[Job] = []
        self.queue: list[Queued] = []
        self.workers: list[Worker] = []
        self.taken: set[tuple[str, int, int, int]] = set()
        self.names = itertools.count(1)

    # -- what happens ------------------------------------------------------------------------------------

    @initialize(sizes=SIZES, stripes=st.integers(1, 3))
    def begin(self, sizes: list[int], stripes: int) -> None:
        self.submit(sizes, stripes, published=True)

    @precondition(lambda self: len(self.jobs) < 3)
    @rule(sizes=SIZES, stripes=st.integers(1, 3), published=st.booleans())
    def submit(self, sizes: list[int], stripes: int, published: bool) -> None:
        record = make_record(sizes, stripes=stripes, job_id=f"{len(self.jobs):026d}")
        assert accept(self.ledger, record) == record
        self.jobs.append(Job(record))
        if published:
            self._publish_open(record)

    @rule(pick=PICK, other=PICK, meanwhile=st.sampled_from(["nothing", "nothing", "delivery", "ending"]))
    def deliver(self, pick: int, other: int, meanwhile: str) -> None:
        """A message comes to a worker; something may happen between its look at the turns and its taking one."""
        if not self.queue:
            self._publish_open(self._any(self.jobs, other).record)
        if not self.queue:
            return
        queued = self._any(self.queue, pick)
        record, stripe = self._job(queued).record, queued.message.stripe
        self.queue.remove(queued)
        if meanwhile == "delivery" and self.queue:
            second = self._any(self.queue, other)
            self.queue.remove(second)
            self.store.before_turn = lambda: self._deliver(second)
            self._deliver(queued)
            if self.store.before_turn:
                self._deliver(second)
        elif meanwhile == "ending":
            self.store.before_turn = lambda: self._end_stripe_and_settle(record, stripe)
            self._deliver(queued)
        else:
            self._deliver(queued)
        self.store.before_turn = None

    @precondition(lambda self: self.workers)
    @rule(pick=PICK, looks=st.booleans(), partly=st.integers(0, 4), shards=st.integers(1, 8))
    def work(self, pick: int, looks: bool, partly: int, shards: int) -> None:
        """A worker commits its next shards; whether it looks before if somebody else took over is open."""
        worker = self._any(self.workers, pick)
        for _ in range(shards):
            if worker in self.workers:
                self._step(worker, looks=looks, partly=partly)

    @precondition(lambda self: self.workers)
    @rule(pick=PICK, hinted=st.booleans(), dies=st.booleans(), rows=st.integers(0, 4))
    def park(self, pick: int, hinted: bool, dies: bool, rows: int) -> None:
        """A worker publishes its continuation; it may die before it acknowledges."""
        worker = self._any(self.workers, pick)
        stripe, record = worker.stripe, worker.stripe.record
        shard = stripe.next_shard
        if shard is not None:
            first, size = record.first_row(shard), record.shard_size(shard)
            saved = {place: result_line(record, first + place) for place in range(min(rows, size))}
            stripe.save_partial(shard, saved)
            kept = stripe.partial(shard)
            if not self.ledger.control(record.id).ended:  # else it may have been swept away
                assert kept.items() >= saved.items()
            assert all(line == result_line(record, first + place) for place, line in kept.items())
        hint = stripe.progress if hinted else Progress()
        self._publish(record, stripe.index, stripe.turn.key.number + 1, hint)
        self._leave(worker, acknowledges=not dies)

    @rule(
        pick=PICK,
        what=st.sampled_from(["crash", "crash", "copy", "deliver again", "lose all", "lose answer"]),
    )
    def fail(self, pick: int, what: str) -> None:
        if what == "crash" and self.workers:
            self._leave(self._any(self.workers, pick), acknowledges=False)
        elif what == "copy" and self.queue:
            self.queue.append(Queued(self._any(self.queue, pick).message))
        elif what == "deliver again" and self.workers:
            # The time for acknowledging has passed, say, while the worker still runs.
            queued = self._any(self.workers, pick).queued
            if not queued.is_lost:
                self.queue.append(Queued(queued.message, redelivered=True))
        elif what == "lose all":
            self.queue.clear()
            for worker in self.workers:
                worker.queued.is_lost = True
        elif what == "lose answer":
            self.store.lose_answer = True

    @rule(
        pick=PICK,
        stripe=PICK,
        what=st.sampled_from(["cancel", "expire", "expire all", "settle", "sweep", "recover"]),
    )
    def steer(self, pick: int, stripe: int, what: str) -> None:
        record = self._any(self.jobs, pick).record
        if what == "cancel":
            self.ledger.cancel(record.id, "a reason")
            begun = self.ledger.turns(record.id)
            for index in range(record.stripes):
                if index not in begun:
                    self.ledger.end_stripe(record, index, "cancelled", by="client")
        elif what == "expire":
            self.ledger.end_stripe(record, stripe % record.stripes, "expired", by="controller")
        elif what == "expire all":
            for index in range(record.stripes):
                self._end_stripe_and_settle(record, index)
        elif what == "settle":
            self.ledger.settle(record)
        elif what == "sweep" and self.ledger.outcome(record.id) is not None:
            self.ledger.sweep(record)
        elif what == "recover":
            self._publish_open(record)

    @rule(pick=PICK, ahead=st.integers(0, 2), shards=st.integers(-1, 9), wrongly=st.booleans())
    def promote(self, pick: int, ahead: int, shards: int, wrongly: bool) -> None:
        """Messages are published again, perhaps with a hint that is not true."""
        record = self._any(self.jobs, pick).record
        for stripe, number in self.ledger.next_turns(record).items():
            hint = Progress()
            if wrongly:
                claimed = record.stripe_shards(stripe)[: max(0, shards)]
                rows = sum(record.shard_size(shard) for shard in claimed)
                hint = Progress(shards, Counts(ok=rows + 1))
            self._publish(record, stripe, number + ahead, hint)

    # -- what is always true -----------------------------------------------------------------------------

    @invariant()
    def what_was_committed_stays(self) -> None:
        for path, data in self.store.created.items():
            if "/turns/" not in path:  # turns may be swept once the job has ended
                assert self.store.read(path) == data

    @invariant()
    def a_job_ends_once_and_accounts_for_every_row(self) -> None:
        for job in self.jobs:
            record = job.record
            outcome = self.ledger.outcome(record.id)
            if job.outcome is not None:
                assert outcome == job.outcome
            elif outcome is not None:
                job.outcome, job.lines = outcome, self._checked_lines(record, outcome)
            else:
                assert record.id in self.ledger.active()

    @invariant()
    def progress_never_goes_back(self) -> None:
        for job in self.jobs:
            status = StatusReader(self.ledger, job.record).read()
            assert job.done <= status.done <= job.record.rows
            job.done = status.done

    def teardown(self) -> None:
        try:
            self.store.before_turn, self.store.lose_answer = None, False
            self._drain()
            self.what_was_committed_stays()
            self.a_job_ends_once_and_accounts_for_every_row()
            for job in self.jobs:
                assert job.outcome is not None, f"{job.record} never ended"
                assert self._checked_lines(job.record, job.outcome) == job.lines
            assert list(self.ledger.active()) == []
            assert self.ledger.unpublished() == []
        finally:
            self._folder.cleanup()

    # -- how workers and brokers do it -------------------------------------------------------------------

    @staticmethod
    def _any(items: list[_T], pick: int) -> _T:
        return items[pick % len(items)]

    def _job(self, queued: Queued) -> Job:
        return next(job for job in self.jobs if job.record.id == queued.message.job)

    def _publish(self, record: JobRecord, stripe: int, turn: int, hint: Progress | None = None) -> None:
        message = Message(record.pool, record.id, stripe, turn, 4, hint or Progress())
        assert Message.parse(message.arguments()) in (
            message,
            Message(record.pool, record.id, stripe, turn, 4),
        )
        self.queue.append(Queued(Message.parse(message.arguments())))

    def _publish_open(self, record: JobRecord) -> None:
        if self.ledger.settle(record) is None:
            for stripe, number in self.ledger.next_turns(record).items():
                self._publish(record, stripe, number)
            self.ledger.published(record.id)

    def _deliver(self, queued: Queued) -> None:
        message, record = queued.message, self._job(queued).record
        if self.ledger.control(record.id).ended:
            return
        taken = self.ledger.take_turn(
            record,
            message.stripe,
            message.turn,
            worker=f"worker-{next(self.names)}",
            redelivered=queued.redelivered,
            hint=message.progress,
        )
        if isinstance(taken, NotTaken):
            assert taken.reason
            self.ledger.settle(record)
            return
        key = (record.id, message.stripe, *taken.turn.key)
        assert key not in self.taken
        self.taken.add(key)
        self.workers.append(Worker(queued, taken))

    def _leave(self, worker: Worker, *, acknowledges: bool) -> None:
        self.workers.remove(worker)
        if not acknowledges and not worker.queued.is_lost:
            self.queue.append(Queued(worker.queued.message, redelivered=True))

    def _step(self, worker: Worker, *, looks: bool, partly: int) -> None:
        stripe, record = worker.stripe, worker.stripe.record
        control = self.ledger.control(record.id)
        if looks and (control.ended or stripe.is_superseded()):
            self._leave(worker, acknowledges=True)
            return
        shard = stripe.next_shard
        if shard is not None and looks and control.cancelled:
            if partly:
                ran = min(partly, record.shard_size(shard))
                stripe.commit(shard, *shard_result(record, shard, ran=ran, how="cancelled"))
            self._end(worker, "cancelled")
        elif shard is not None:
            stripe.commit(shard, *shard_result(record, shard))
            assert stripe.next_shard != shard
        else:
            self._end(worker, "completed")

    def _end(self, worker: Worker, how) -> None:
        if worker.stripe.end(how, at=self.ledger.clock()):
            self.ledger.settle(worker.stripe.record)
        self._leave(worker, acknowledges=True)

    def _end_stripe_and_settle(self, record: JobRecord, stripe: int) -> None:
        self.ledger.end_stripe(record, stripe, "expired", by="controller")
        self.ledger.settle(record)

    def _drain(self) -> None:
        for worker in list(self.workers):
            if worker.stripe.next_shard is not None:
                self._step(worker, looks=False, partly=0)
            self._leave(worker, acknowledges=False)
        for _ in range(3):
            for _ in range(2000):
                if self.workers:
                    self._step(self.workers[0], looks=True, partly=1)
                elif self.queue:
                    self._deliver(self.queue.pop(0))
            for job_id in list(self.ledger.active()):
                self._publish_open(self.ledger.record(job_id))

    def _checked_lines(self, record: JobRecord, outcome: Outcome) -> list[list[bytes]]:
        """The results of an ended job, after comparing them with its rows and its outcome."""
        found = list(result_shards(self.ledger, record, wait=None))
        rows = [ResultRow(line) for lines in found for line in lines]
        assert [row.custom_id for row in rows] == [custom_id(row) for row in range(record.rows)]
        assert Counts.of(row.outcome for row in rows) == outcome.counts
        assert outcome.counts.total == record.rows
        for number, row in enumerate(rows):
            if row.outcome in ("ok", "error"):
                assert row.line == result_line(record, number)
        all_ran = outcome.counts.ok + outcome.counts.error == record.rows
        assert (outcome.state == "completed") == all_ran
        assert len([path for path in self.store.created if path == layout.outcome(record.id)]) == 1
        return found


LedgerMachine.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestEverythingThatCanHappen = LedgerMachine.TestCase
