"""The runner without a broker: a queue in memory, so that clocks and lanes can be moved at will."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from holdshort.jobs.broker.message import Message
from holdshort.jobs.input import read_rows
from holdshort.jobs.ledger import Ledger
from holdshort.jobs.record import JobRecord, Outcome
from holdshort.jobs.results import ResultRow, result_shards
from holdshort.jobs.rows import Row, RowError
from holdshort.jobs.spec import BatchInferenceJob
from holdshort.jobs.submitting import accept
from holdshort.storage.errors import Interrupted
from holdshort.storage.local import LocalStore
from holdshort.workers.engines.protocol import BaseEngine, EngineInfo, Unit
from holdshort.workers.lane.reading import CLEAR, Reading
from holdshort.workers.observer import Observer, Point
from holdshort.workers.runner import Limits, Runner


class Echo(BaseEngine):
    """Answers with the input; each micro-batch takes as long as it is told."""

    def __init__(self, seconds_per_unit: float = 0.0) -> None:
        self.seconds_per_unit = seconds_per_unit
        self.sizes: list[int] = []
        self.before: Callable[[], None] = lambda: None

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("echo", "1")

    def load(self) -> None:
        return None

    def units(self, row: Row) -> Sequence[Unit] | RowError:
        return [Unit(1, row.body["input"])]

    def infer(self, units: Sequence[Unit]) -> Sequence[Any | RowError]:
        self.before()
        self.sizes.append(len(units))
        time.sleep(self.seconds_per_unit * len(units))
        return [unit.payload for unit in units]

    def finish(self, row: Row, outputs: Sequence[Any]) -> dict[str, Any] | RowError:
        return {"echo": outputs[0]}


class House:
    """A ledger, a queue, and what a worker needs."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.ledger = Ledger(LocalStore(folder), clock=clock)
        self.queue: deque[Message] = deque()
        self.lane = CLEAR

    def submit(self, rows: int, **spec: Any) -> JobRecord:
        job = BatchInferenceJob(pool="embed", input=[], **spec)
        record = accept(self.ledger, job, read_rows([f"text {n}" for n in range(rows)]))
        self.queue.extend(Message("embed", record.id, stripe, 1, 4) for stripe in range(record.stripes))
        return record

    def runner(self, engine: BaseEngine, *, observer: Observer | None = None, **limits: float) -> Runner:
        return Runner(
            self.ledger,
            {"batch": engine},  # type: ignore[dict-item]
            self.queue.append,
            lane=lambda: self.lane,
            worker_id="worker",
            limits=Limits(**limits),
            observer=observer,
        )

    def drain(self, runner: Runner) -> None:
        while self.queue:
            runner.advance(self.queue.popleft(), redelivered=False)

    def outcome(self, record: JobRecord) -> Outcome:
        found = self.ledger.outcome(record.id)
        assert found is not None
        return found

    def echoes(self, record: JobRecord) -> list[str]:
        return [
            (ResultRow(line).body or {})["echo"]
            for shard in result_shards(self.ledger, record, wait=None)
            for line in shard
        ]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_a_clock_that_jumps_back_and_forth_changes_no_result(tmp_path: Path) -> None:
    jumps = iter([0.0, 86400.0, -86400.0, 3600.0, -7 * 86400.0] * 200)
    house = House(tmp_path, clock=lambda: 1_800_000_000.0 + next(jumps))
    record = house.submit(200, shard_rows=10, max_parallelism=3)
    house.drain(house.runner(Echo(0.0005), quantum_s=0.02))
    assert house.outcome(record).counts.as_dict() == {"ok": 200, "error": 0, "expired": 0, "cancelled": 0}
    assert house.echoes(record) == [f"text {n}" for n in range(200)]


def test_each_turn_advances_however_short_the_quantum(house: House) -> None:
    record = house.submit(60, shard_rows=30, max_parallelism=1)
    engine = Echo(0.001)
    house.drain(house.runner(engine, quantum_s=0.000001))
    assert house.echoes(record) == [f"text {n}" for n in range(60)]
    assert sum(engine.sizes) == 60, "no row was run twice"


def test_micro_batches_grow_to_the_bound_and_stay_within_it(house: House) -> None:
    house.submit(2000, shard_rows=1000, max_parallelism=1)
    engine = Echo(0.0005)
    house.drain(house.runner(engine, yield_bound_s=0.05))
    grown = engine.sizes[12:]
    # 70 % of the bound is 70 units at this rate; sleeping is never exact, so only the order of it is sure.
    assert engine.sizes[0] == 1
    assert 20 <= sorted(grown)[len(grown) // 2] <= 80
    assert max(grown) <= 100


def test_a_message_handed_back_by_a_held_worker_after_a_crash_is_not_lost(house: House) -> None:
    record = house.submit(60, shard_rows=20, max_parallelism=1)
    message = house.queue.popleft()
    house.ledger.take_turn(record, 0, 1, worker="dead", redelivered=False, hint=message.progress)
    house.lane = Reading("hold", 0.0, "deploy", "operator ana", since=time.monotonic() - 100.0)
    runner = house.runner(Echo(), park_after_s=0.01)
    assert runner.advance(message, redelivered=True) == "handed_back"
    assert [again.turn for again in house.queue] == [2], "the turn that the dead one took can't be asked for again"
    house.lane = CLEAR
    house.drain(runner)
    assert house.outcome(record).counts.as_dict() == {"ok": 60, "error": 0, "expired": 0, "cancelled": 0}


def test_a_hold_stops_work_within_the_micro_batch_in_hand_and_no_row_is_run_again(house: House) -> None:
    record = house.submit(400, shard_rows=400, max_parallelism=1)
    engine = Echo(0.001)
    runner = house.runner(engine, yield_bound_s=0.01, park_after_s=0.05)
    held_at: list[int] = []

    def hold_once() -> None:
        if len(engine.sizes) == 10 and not held_at:
            held_at.append(sum(engine.sizes))
            house.lane = Reading("hold", 0.0, "chat", "test", time.monotonic())

    engine.before = hold_once
    result = runner.advance(house.queue.popleft(), redelivered=False)
    assert result == "continued"
    # The one that was about to run when the lane changed is the last.
    assert len(engine.sizes) == 11
    house.lane = CLEAR
    house.drain(runner)
    assert house.echoes(record) == [f"text {n}" for n in range(400)]
    assert sum(engine.sizes) == 400


def test_a_short_hold_is_waited_out_in_place(house: House) -> None:
    record = house.submit(50, shard_rows=50, max_parallelism=1)
    engine = Echo(0.001)
    runner = house.runner(engine, park_after_s=30.0)

    def clear() -> None:
        house.lane = CLEAR
        runner.wake()

    def hold_once() -> None:
        if len(engine.sizes) == 3:
            house.lane = Reading("hold", 0.0, "chat", "test", time.monotonic())
            threading.Timer(0.1, clear).start()

    engine.before = hold_once
    assert runner.advance(house.queue.popleft(), redelivered=False) == "ended"
    assert house.echoes(record) == [f"text {n}" for n in range(50)]


def test_a_held_lane_takes_no_turn(house: House) -> None:
    record = house.submit(10)
    house.lane = Reading("hold", 0.0, "deploy", "test", time.monotonic() - 60)
    message = house.queue.popleft()
    assert house.runner(Echo(), park_after_s=0.01).advance(message, redelivered=False) == "handed_back"
    assert house.ledger.turns(record.id) == {}
    assert list(house.queue) == [message]


class Endless(Echo):
    """A micro-batch that ends only when it is interrupted."""

    def __init__(self) -> None:
        super().__init__()
        self._interrupted = threading.Event()
        self.endless = True
        self.running = threading.Event()

    def infer(self, units: Sequence[Unit]) -> Sequence[Any | RowError]:
        if self.endless:
            self.running.set()
            assert self._interrupted.wait(timeout=20)
            raise Interrupted("stopped")
        return super().infer(units)

    def interrupt(self) -> None:
        self._interrupted.set()


def test_a_micro_batch_that_outlasts_the_bound_is_interrupted_and_run_again_later(house: House) -> None:
    record = house.submit(3)
    engine = Endless()
    runner = house.runner(engine, yield_bound_s=0.02)
    worker = threading.Thread(target=runner.advance, args=(house.queue.popleft(),), kwargs={"redelivered": False})
    worker.start()
    assert engine.running.wait(timeout=10)
    runner.stop()
    worker.join(timeout=10)
    assert not worker.is_alive()
    assert [message.turn for message in house.queue] == [2]
    engine.endless = False
    house.drain(house.runner(engine))
    assert house.echoes(record) == ["text 0", "text 1", "text 2"]


def test_a_turn_that_is_taken_over_stops_and_writes_no_outcome_of_its_own(house: House) -> None:
    record = house.submit(100, shard_rows=10, max_parallelism=1)

    class TakeOver(Observer):
        def at(self, point: Point, *, job: str, stripe: int, shard: int | None) -> None:
            if point == "after_commit" and shard == 4:
                house.ledger.take_turn(record, 0, 7, worker="other")

    runner = house.runner(Echo(0.002), observer=TakeOver(), control_interval_s=0.005)
    assert runner.advance(house.queue.popleft(), redelivered=False) == "taken_over"
    assert house.ledger.outcome(record.id) is None
    house.queue.append(Message("embed", record.id, 0, 8, 4))
    house.drain(house.runner(Echo()))
    assert house.echoes(record) == [f"text {n}" for n in range(100)]


def test_input_that_was_damaged_in_the_store_ends_as_error_rows(house: House, tmp_path: Path) -> None:
    record = house.submit(600, shard_rows=200, max_parallelism=1)
    (damaged,) = (tmp_path / "jobs" / record.id / "input").glob("*/00000001.*")
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 0xFF
    damaged.write_bytes(data)
    house.drain(house.runner(Echo()))
    assert house.outcome(record).counts.as_dict() == {"ok": 400, "error": 200, "expired": 0, "cancelled": 0}


class Busy(Echo):
    """Asks to come again much later than a quantum."""

    def infer(self, units: Sequence[Unit]) -> Sequence[Any | RowError]:
        self.sizes.append(len(units))
        busy = RowError("busy", "come again", retryable=True, retry_after_s=3600.0)
        return [busy if unit.payload == "text 1" else unit.payload for unit in units]


def test_tries_count_on_over_turns_so_a_row_that_always_asks_for_later_ends(house: House) -> None:
    record = house.submit(3, max_attempts=3)
    runner = house.runner(Busy(), quantum_s=0.05)
    begin = time.monotonic()
    turns = 0
    while house.queue:
        turns += 1
        assert turns <= 3, "a row is tried once a turn, and has three tries"
        runner.advance(house.queue.popleft(), redelivered=False)
    # The message is not held until the row may come again.
    assert time.monotonic() - begin < 60
    assert house.outcome(record).counts.as_dict() == {"ok": 2, "error": 1, "expired": 0, "cancelled": 0}
    lines = [ResultRow(line) for shard in result_shards(house.ledger, record, wait=None) for line in shard]
    assert lines[1].error is not None
    assert "tried 3 times" in lines[1].error["message"]
