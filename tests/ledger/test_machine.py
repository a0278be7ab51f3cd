"""The ledger under everything that queues and workers can do to it, in any order."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.jobs import accept, custom_id, make_record, result_line, shard_result

from holdshort.jobs.broker.message import Message
from holdshort.jobs.ledger import Ledger, NotTaken, Progress, Stripe, layout
from holdshort.jobs.record import Counts, JobRecord, Outcome
from holdshort.jobs.results import ResultRow, result_shards
from holdshort.jobs.status import StatusReader
from holdshort.storage.local import LocalStore

PICK = st.integers(0, 2**16)


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

    @precondition(lambda self: len(self.jobs) < 3)
    @rule(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=7), stripes=st.integers(1, 3), published=st.booleans())
    def submit(self, sizes: list[int], stripes: int, published: bool) -> None:
        record = make_record(sizes, stripes=stripes)
        assert accept(self.ledger, record) == record
        self.jobs.append(Job(record))
        if published:
            self._publish_open(record)

    @precondition(lambda self: self.queue)
    @rule(pick=PICK)
    def deliver(self, pick: int) -> None:
        self._deliver(self.queue[pick % len(self.queue)])

    @precondition(lambda self: len(self.queue) > 1)
    @rule(pick=PICK, other=PICK)
    def deliver_two_at_once(self, pick: int, other: int) -> None:
        """Another delivery happens between a worker's look at the turns and its taking one."""
        first, second = self.queue[pick % len(self.queue)], self.queue[other % len(self.queue)]
        assume(first is not second)
        self.store.before_turn = lambda: self._deliver(second)
        self._deliver(first)
        self.store.before_turn = None

    @precondition(lambda self: self.queue and self.jobs)
    @rule(pick=PICK)
    def deliver_while_a_controller_ends_the_stripe(self, pick: int) -> None:
        queued = self.queue[pick % len(self.queue)]
        record, stripe = self._job(queued).record, queued.message.stripe
        self.store.before_turn = lambda: self._end_stripe_and_settle(record, stripe)
        self._deliver(queued)
        self.store.before_turn = None

    @precondition(lambda self: self.workers)
    @rule(pick=PICK, looks=st.booleans(), partly=st.integers(0, 4))
    def step(self, pick: int, looks: bool, partly: int) -> None:
        """A worker commits its next shard; whether it looked before if somebody else took over is open."""
        self._step(self.workers[pick % len(self.workers)], looks=looks, partly=partly)

    @precondition(lambda self: self.workers)
    @rule(pick=PICK, hinted=st.booleans(), dies=st.booleans(), rows=st.integers(0, 4))
    def park(self, pick: int, hinted: bool, dies: bool, rows: int) -> None:
        """A worker publishes its continuation; it may die before it acknowledges."""
        worker = self.workers[pick % len(self.workers)]
        stripe, record = worker.stripe, worker.stripe.record
        shard = stripe.next_shard
        if shard is not None:
            first, size = record.first_row(shard), record.shard_size(shard)
            saved = {place: result_line(record, first + place) for place in range(min(rows, size))}
            stripe.save_partial(shard, saved)
            kept = stripe.partial(shard)
            assert kept.items() >= saved.items()
            assert all(line == result_line(record, first + place) for place, line in kept.items())
        hint = stripe.progress if hinted else Progress()
        self._publish(record, stripe.index, stripe.turn.key.number + 1, hint)
        self._leave(worker, acknowledges=not dies)

    @precondition(lambda self: self.workers)
    @rule(pick=PICK)
    def crash(self, pick: int) -> None:
        self._leave(self.workers[pick % len(self.workers)], acknowledges=False)

    @precondition(lambda self: self.queue)
    @rule(pick=PICK)
    def duplicate(self, pick: int) -> None:
        self.queue.append(Queued(self.queue[pick % len(self.queue)].message))

    @precondition(lambda self: self.queue)
    @rule(pick=PICK)
    def a_broker_delivers_again_without_a_reason(self, pick: int) -> None:
        """Its acknowledgement deadline passed, say, while the worker still runs."""
        if self.workers:
            worker = self.workers[pick % len(self.workers)]
            if not worker.queued.is_lost:
                self.queue.append(Queued(worker.queued.message, redelivered=True))

    @rule()
    def the_broker_loses_everything(self) -> None:
        self.queue.clear()
        for worker in self.workers:
            worker.queued.is_lost = True

    @precondition(lambda self: self.jobs)
    @rule(pick=PICK)
    def recover(self, pick: int) -> None:
        self._publish_open(self.jobs[pick % len(self.jobs)].record)

    @precondition(lambda self: self.jobs)
    @rule(pick=PICK, ahead=st.integers(0, 2))
    def promote(self, pick: int, ahead: int) -> None:
        record = self.jobs[pick % len(self.jobs)].record
        for stripe, number in self.ledger.next_turns(record).items():
            self._publish(record, stripe, number + ahead)

    @precondition(lambda self: self.jobs)
    @rule(pick=PICK, position=st.integers(-1, 9), ok=st.integers(0, 9))
    def a_message_carries_a_wrong_hint(self, pick: int, position: int, ok: int) -> None:
        record = self.jobs[pick % len(self.jobs)].record
        for stripe, number in self.ledger.next_turns(record).items():
            # What nobody has counted: some rows as ok, the rest as cancelled.
            rows = sum(record.shard_size(shard) for shard in record.stripe_shards(stripe)[: max(0, position)])
            self._publish(record, stripe, number, Progress(position, Counts(ok=ok, cancelled=rows + 1)))

    @precondition(lambda self: self.jobs)
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        record = self.jobs[pick % len(self.jobs)].record
        self.ledger.cancel(record.id, "a reason")
        begun = self.ledger.turns(record.id)
        for stripe in range(record.stripes):
            if stripe not in begun:
                self.ledger.end_stripe(record, stripe, "cancelled", by="client")

    @precondition(lambda self: self.jobs)
    @rule(pick=PICK, stripe=PICK)
    def expire(self, pick: int, stripe: int) -> None:
        record = self.jobs[pick % len(self.jobs)].record
        self.ledger.end_stripe(record, stripe % record.stripes, "expired", by="controller")

    @precondition(lambda self: self.jobs)
    @rule(pick=PICK)
    def settle(self, pick: int) -> None:
        self.ledger.settle(self.jobs[pick % len(self.jobs)].record)

    @precondition(lambda self: self.jobs)
    @rule(pick=PICK)
    def sweep(self, pick: int) -> None:
        job = self.jobs[pick % len(self.jobs)]
        if self.ledger.outcome(job.record.id) is not None:
            self.ledger.sweep(job.record)

    @rule()
    def the_next_answer_of_the_store_is_lost(self) -> None:
        self.store.lose_answer = True

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

    def _job(self, queued: Queued) -> Job:
        return next(job for job in self.jobs if job.record.id == queued.message.job)

    def _publish(self, record: JobRecord, stripe: int, turn: int, hint: Progress = Progress()) -> None:
        message = Message(record.pool, record.id, stripe, turn, 4, hint)
        assert Message.parse(message.arguments()) in (message, Message(record.pool, record.id, stripe, turn, 4))
        self.queue.append(Queued(Message.parse(message.arguments())))

    def _publish_open(self, record: JobRecord) -> None:
        if self.ledger.settle(record) is None:
            for stripe, number in self.ledger.next_turns(record).items():
                self._publish(record, stripe, number)
            self.ledger.published(record.id)

    def _deliver(self, queued: Queued) -> None:
        if queued not in self.queue:
            return
        self.queue.remove(queued)
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
            self._leave(worker, acknowledges=False)
        for _ in range(3):
            while self.queue or self.workers:
                if self.workers:
                    self._step(self.workers[0], looks=True, partly=1)
                else:
                    self._deliver(self.queue[0])
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
    max_examples=120,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestEverythingThatCanHappen = LedgerMachine.TestCase
