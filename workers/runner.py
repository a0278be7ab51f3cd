"""Advances a stripe: from a message to commits, an outcome, or a continuation.

What to do next is decided in decide.py; here it is done.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Literal

from ..jobs.broker.message import Message
from ..jobs.checkpoints.places import Places
from ..jobs.input import parse, unpack
from ..jobs.ledger import Ledger, NotTaken, Stripe
from ..jobs.ledger.shards import Summary
from ..jobs.ledger.stripe import Attempt
from ..jobs.policy.urgency import priority_now
from ..jobs.record import Counts, Ended, JobKind, JobRecord
from ..jobs.rows import NOT_RUN, Row, RowError, RowOutcome, error_line
from ..jobs.settling import settle
from ..storage.errors import BrokerUnavailable, Corrupt, ObjectNotFound, UnknownJob
from .batching import BatchBudget
from .decide import Situation, Step, next_step
from .engines.protocol import Engine
from .interrupter import Interrupter
from .lane.control import Control, Permit, YieldLimits
from .lane.reading import Reading
from .observer import Observer, Point
from .shard_run import ShardRun
from .suspects import plan
from .watch import Watch

log = logging.getLogger(__name__)

_LOOK_S = 0.1
"""While it waits; changes of the lane, of the job and of our turn are told by `wake`."""
"""How often the lane is looked at while work stands still."""

Result = Literal["ended", "continued", "handed_back", "taken_over", "paused", "dropped"]
"""What became of a message; all of them mean: acknowledge it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a worker may hold what; seconds."""

    quantum_s: float = 30.0
    yield_bound_s: float = 0.05
    park_after_s: float = 2.0
    control_interval_s: float = 1.0
    drain_s: float | None = None
    min_run_s: float | None = None
    preemptions_per_minute: int | None = None
    suspend_when_parked: bool = False

    @property
    def lane(self) -> YieldLimits:
        """What of it concerns the lane; what is None follows from the bound."""
        bound_s = self.yield_bound_s
        often = max(1, round(60 / bound_s)) if self.preemptions_per_minute is None else self.preemptions_per_minute
        drain_s = bound_s / 10 if self.drain_s is None else self.drain_s
        min_run_s = bound_s * 0.4 if self.min_run_s is None else self.min_run_s
        return YieldLimits(bound_s, drain_s, min_run_s, often)


class Runner:
    """Advances stripes, one at a time, in the thread that calls it.

    Args:
        ledger: on a store that is patient (storage/patience.py): the runner expects it to answer.
        engines: the engine for each kind of job, loaded.
        publish: hands a message to the broker; may raise BrokerUnavailable.
        lane: the latest reading; called between any two micro-batches.
        worker_id: who we are, in turns and summaries.
        places: what the end of a checkpoint job may need besides the ledger.
    """

    def __init__(
        self,
        ledger: Ledger,
        engines: dict[JobKind, Engine],
        publish: Callable[[Message], None],
        *,
        lane: Callable[[], Reading],
        worker_id: str,
        limits: Limits,
        observer: Observer | None = None,
        places: Places | None = None,
    ) -> None:
        self._ledger = ledger
        self._places = places
        self._engines = engines
        self._publish = publish
        self._lane = lane
        self._worker_id = worker_id
        self._limits = limits
        self._observer = observer or Observer()
        self._budgets = {kind: BatchBudget(limits.yield_bound_s) for kind in engines}
        self._control = Control(limits.lane)
        self._interrupter = Interrupter(limits.yield_bound_s, self._interrupt_at)
        self._stopping = False
        self._changed = threading.Event()
        self._engine_in_use = threading.Lock()
        self._suspended = False

    def stop(self) -> None:
        """Park at the next step; from any thread or a signal handler."""
        self._stopping = True
        self.wake()

    def wake(self) -> None:
        """Something that the next step depends on has changed; from any thread."""
        self._changed.set()
        if self._stopping:
            self._interrupter.demand()
        self._interrupter.look()

    def suspend(self) -> None:
        """Release the engines' memory, if the pool says so and the lane is held for long; from any thread."""
        if self._limits.suspend_when_parked and not self._suspended:
            with self._engine_in_use:
                if self._lane_is_parked() and not self._suspended:
                    self._suspended = True
                    for engine in self._engines.values():
                        engine.suspend()
                    log.info("the engine's memory is released until the lane is clear")

    def advance(self, message: Message, *, redelivered: bool) -> Result:
        """Do what a message asks for, for at most one quantum (and the micro-batch then running).

        Raises:
            Corrupt: the ledger contradicts itself; nothing is lost, but the job needs a person.
        """
        try:
            record = self._ledger.record(message.job)
        except UnknownJob:
            log.warning("message %s dropped: the store holds no such job", message.name)
            return "dropped"
        control = self._ledger.control(record.id)
        if control.ended or (control.paused and not control.cancelled):
            return "dropped"
        if self._lane_is_parked():
            # Taking a turn only to park it would be noise in the ledger.
            self._hand_back(message, redelivered=redelivered)
            return "handed_back"
        taken = self._ledger.take_turn(
            record,
            message.stripe,
            message.turn,
            worker=self._worker_id,
            redelivered=redelivered,
            hint=message.progress,
        )
        if isinstance(taken, NotTaken):
            log.info("message %s dropped: %s", message.name, taken.reason)
            settle(self._ledger, record, self._places)
            return "dropped"
        self._at("taken", taken)
        watch = Watch(self._ledger, taken, control, interval_s=self._limits.control_interval_s, on_change=self.wake)
        with watch:
            with self._engine_in_use, self._interrupter:
                self._resume()
                step = _Held(self, taken, watch).run()
            self._observer.left(action=step.action if step else "end", why=step.why if step else "")
            result = self._leave(message, taken, step)
        if step is not None and step.why == "lane":
            self.suspend()
        return result

    def _resume(self) -> None:
        if self._suspended:
            for engine in self._engines.values():
                engine.resume()
            self._suspended = False

    # -- leaving a stripe --------------------------------------------------------------------------------

    def _leave(self, message: Message, stripe: Stripe, step: Step | None) -> Result:
        record = stripe.record
        if step is not None and step.why == "taken_over":
            log.info("stripe %s of %s was taken over", stripe.index, record.id)
            return "taken_over"
        if step is not None and step.action == "park":
            if step.why == "paused":
                return "paused"
            self._continue(message, stripe)
            return "continued"
        ended: Ended = "completed"
        if step is not None:
            ended = "cancelled" if step.why == "cancelled" else "expired"
        if not stripe.end(ended, at=self._ledger.clock()):
            log.info("stripe %s of %s was taken over at its end", stripe.index, record.id)
            return "taken_over"
        outcome = settle(self._ledger, record, self._places)
        if outcome is not None:
            log.info("job %s %s: %s", record.id, outcome.state, outcome.counts.as_dict())
        return "ended"

    def _continue(self, message: Message, stripe: Stripe) -> None:
        now = self._ledger.clock()
        record = stripe.record
        self._send(
            Message(
                pool=message.pool,
                job=record.id,
                stripe=stripe.index,
                turn=stripe.turn.key.number + 1,
                priority=priority_now(record, now=now, waiting_since=now),
                progress=stripe.progress,
            )
        )
        self._at("continued", stripe)

    def _hand_back(self, message: Message, *, redelivered: bool) -> None:
        # A held lane may deliver the message to us again at once; not faster than this.
        self._wait(time.monotonic() + self._limits.park_after_s)
        # Our copy will not be marked as redelivered, so it must not ask for a turn that a dead worker has taken.
        self._send(replace(message, turn=message.turn + 1) if redelivered else message)

    def _send(self, message: Message) -> None:
        try:
            self._publish(message)
        except BrokerUnavailable as error:
            log.warning("message %s goes to the outbox: %s", message.name, error)
            self._ledger.queue_again(message.job)

    # -- deciding ----------------------------------------------------------------------------------------

    def _lane_is_parked(self) -> bool:
        reading = self._lane()
        held_long = time.monotonic() >= reading.since + self._limits.park_after_s
        return reading.signal == "hold" and held_long and not self._stopping

    def decide(self, record: JobRecord, watch: Watch, quantum_ends: float, expected_s: float) -> Step:
        """The next step, after waiting in place while it says so."""
        paused_since: float | None = None
        reason = ""
        while True:
            self._changed.clear()
            now = time.monotonic()
            step = next_step(
                Situation(
                    now=now,
                    permit=self._permit(expected_s, now),
                    quantum_ends=quantum_ends,
                    park_after_s=self._limits.park_after_s,
                    stopping=self._stopping,
                    cancelled=watch.control.cancelled,
                    paused=watch.control.paused,
                    expired=record.deadline_at is not None and self._ledger.clock() >= record.deadline_at,
                    taken_over=watch.taken_over,
                )
            )
            if step.action != "pause":
                if paused_since is not None:
                    self._observer.waited(seconds=now - paused_since, reason=reason)
                return step
            paused_since, reason = paused_since or now, step.reason
            self._wait(now + _LOOK_S if step.until is None else min(step.until, now + _LOOK_S))

    def _permit(self, expected_s: float, now: float) -> Permit:
        control = self._control
        preemptions = control.preemptions
        permit = control.permit(self._lane(), expected_s=expected_s, now=now)
        if control.preemptions != preemptions and control.hold is not None:
            raised, seen = control.hold
            self._observer.yielded(raised=raised, seen=seen, still=now)
        return permit

    def _interrupt_at(self, started: float, expected_s: float, now: float) -> float | None:
        return self._control.interrupt_at(self._lane(), started=started, expected_s=expected_s, now=now)

    def _wait(self, until: float | None) -> None:
        timeout = None if until is None else max(0.0, until - time.monotonic())
        if timeout != 0.0:
            self._changed.wait(timeout)

    def _at(self, point: Point, stripe: Stripe, shard: int | None = None) -> None:
        self._observer.at(point, job=stripe.record.id, stripe=stripe.index, shard=shard)

    # What _Held needs of us, kept together here.

    def shard_run(self, held: _Held, shard: int, rows: dict[int, Row]) -> ShardRun:
        """A shard of a stripe in hand, ready to run."""
        record = held.stripe.record

        def about_to_run() -> None:
            held.advances()
            self._at("micro_batch", held.stripe, shard)

        return ShardRun(
            job_id=record.id,
            rows=rows,
            engine=self._engines[record.kind],
            budget=self._budgets[record.kind],
            interrupter=self._interrupter,
            control=self._control,
            observer=self._observer,
            max_attempts=record.max_attempts,
            step=held.step,
            wait=self._wait,
            about_to_run=about_to_run,
        )

    def point(self, point: Point, stripe: Stripe, shard: int) -> None:
        """Tell the observer."""
        self._at(point, stripe, shard)

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    @property
    def quantum_s(self) -> float:
        return self._limits.quantum_s

    def summary(self, record: JobRecord, counts: Counts, engine_s: float) -> Summary:
        """What a shard of ours says about itself."""
        info = self._engines[record.kind].info
        return Summary(counts, engine=asdict(info), worker=self._worker_id, engine_s=round(engine_s, 6))


class _Held:
    """A stripe while its message is in our hand."""

    def __init__(self, runner: Runner, stripe: Stripe, watch: Watch) -> None:
        self.stripe = stripe
        self._runner = runner
        self._watch = watch
        self._quantum_ends = time.monotonic() + runner.quantum_s
        self._has_advanced = False
        # Only the shard that an earlier turn left open can have anything behind it.
        self._look_back = stripe.turn.key != (1, 0)

    def step(self, expected_s: float) -> Step:
        # Every turn runs at least one micro-batch, or a quantum shorter than getting ready would never end.
        ends = self._quantum_ends if self._has_advanced else math.inf
        return self._runner.decide(self.stripe.record, self._watch, ends, expected_s)

    def advances(self) -> None:
        """A micro-batch runs."""
        self._has_advanced = True

    def run(self) -> Step | None:
        """Run shard after shard; None when the stripe is done, else the step that ended it."""
        while (shard := self.stripe.next_shard) is not None:
            step = self.step(0.0)
            if step.action == "advance":
                step = self._run_shard(shard)
            if step is not None:
                return step
        return None

    def _run_shard(self, shard: int) -> Step | None:
        stripe = self.stripe
        rows, unreadable = self._rows(shard)
        run = self._runner.shard_run(self, shard, rows)
        run.lines.update(unreadable)
        look_back, self._look_back = self._look_back, False
        noted: list[Attempt] = []
        if look_back:
            run.lines.update(stripe.partial(shard))
            run.tries.update(stripe.tries(shard))
            noted = self._attempts(shard, len(rows) + len(unreadable))
        saved = set(run.lines)
        step = self._run_planned(run, shard, noted, saved) or self._before_commit()
        if step is not None:
            return self._let_go(run, shard, step, saved)
        self._commit(run, shard, tidy=look_back)
        return None

    def _before_commit(self) -> Step | None:
        # Packing results takes the processor too. What would end the work comes too late to matter here.
        step = self.step(0.0)
        return step if step.action == "park" and step.why == "lane" else None

    def _attempts(self, shard: int, rows: int) -> list[Attempt]:
        found = self.stripe.attempts(shard)
        if not found and self.stripe.turn.key.delivery > 0:
            # The worker before us died, and had noted nothing: any row of this shard may be the cause.
            whole = Attempt(0, rows)
            self.stripe.note_attempt(shard, whole)
            found = [whole]
        return found

    def _run_planned(self, run: ShardRun, shard: int, attempts: list[Attempt], saved: set[int]) -> Step | None:
        record, stripe = self.stripe.record, self.stripe
        pending = [place for place in sorted(run.rows) if place not in run.lines]
        todo = plan(pending, attempts, max_attempts=record.max_attempts)
        for place in todo.lost:
            row = run.rows[place]
            error = RowError(
                "worker_lost",
                f"the worker's process died each of the {record.max_attempts} times that this row was run "
                f"(out of memory, or a crash in native code?)",
            )
            run.lines[place] = error_line(record.id, row.index, row.custom_id, error)
        step = run.run(todo.free)
        if step is not None or not todo.groups:
            return step
        log.warning("a worker died in shard %d of %s; its rows are run in groups", shard, record.id)
        self._save(run, shard, saved)
        for group in todo.groups:
            stripe.note_attempt(shard, Attempt(group[0], group[-1] + 1))
            step = run.run(group)
            if step is not None and step.why != "taken_over":
                self._save(run, shard, saved)
            stripe.forget_attempt()
            if step is not None:
                return step
            self._save(run, shard, saved)
        return None

    def _save(self, run: ShardRun, shard: int, saved: set[int]) -> None:
        lines = {place: line for place, line in run.lines.items() if place not in saved}
        self.stripe.save_partial(shard, lines, {p: tries for p, tries in run.tries.items() if p not in run.lines})
        saved |= run.lines.keys()

    def _let_go(self, run: ShardRun, shard: int, step: Step, saved: set[int]) -> Step:
        """Keep what is done of a shard that can't be finished now."""
        if step.action == "park":
            self._save(run, shard, saved)
            self._runner.point("parking", self.stripe, shard)
        elif (step.why == "cancelled" or step.why == "expired") and run.lines:
            # Rows that are answered stay answered: the open shard is committed with the rest marked.
            error = NOT_RUN[step.why]
            left = 0
            for place, row in run.rows.items():
                if place not in run.lines:
                    run.lines[place] = error_line(self.stripe.record.id, row.index, row.custom_id, error)
                    left += 1
            self._commit(run, shard, tidy=True, left=(step.why, left))
        return step

    def _commit(self, run: ShardRun, shard: int, *, tidy: bool, left: tuple[RowOutcome, int] | None = None) -> None:
        stripe, record = self.stripe, self.stripe.record
        lines = [run.lines[place] for place in sorted(run.lines)]
        counts = _count(lines, left)
        self._has_advanced = True
        self._runner.point("before_commit", stripe, shard)
        created = stripe.commit(shard, self._runner.summary(record, counts, run.engine_s), lines)
        self._runner.point("after_commit", stripe, shard)
        if not created:
            log.info("shard %d of %s had been committed by another worker", shard, record.id)
        if tidy:
            stripe.drop_partial(shard)

    def _rows(self, shard: int) -> tuple[dict[int, Row], dict[int, bytes]]:
        """The rows of a shard by place, and lines for those that can't be read."""
        record = self.stripe.record
        first, size = record.first_row(shard), record.shard_size(shard)
        params = record.params
        try:
            lines = unpack(self._runner.ledger.input_shard(record, shard))
            if len(lines) != size:
                raise Corrupt(f"it has {len(lines)} rows instead of {size}")
        except (Corrupt, ObjectNotFound) as problem:
            error = RowError("input_unreadable", f"the stored input of this row can't be read: {problem}")
            log.error("shard %d of %s: %s", shard, record.id, error.message)  # noqa: TRY400 - no defect of ours
            unknown = {p: error_line(record.id, first + p, f"row-{first + p + 1}", error) for p in range(size)}
            return {}, unknown
        rows: dict[int, Row] = {}
        for place, line in enumerate(lines):
            custom_id, url, body = parse(line)
            rows[place] = Row(first + place, custom_id, {**params, **body} if params else body, url)
        return rows, {}


def _count(lines: list[bytes], left: tuple[RowOutcome, int] | None) -> Counts:
    # A line of ours ends in its error: null, or an object. Looking there spares parsing it.
    ok = sum(1 for line in lines if line.endswith(b'"error":null}'))
    unfinished = Counts.all(*left) if left else Counts()
    return Counts(ok=ok, error=len(lines) - ok - unfinished.total) + unfinished
