"""Runs the rows of one shard: units, micro-batches, retries; leaves when told to."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..jobs.rows import Row, RowError, error_line
from ..storage.errors import Interrupted
from .batching import BatchBudget, take_batch
from .decide import Step
from .engines.failures import row_error
from .engines.protocol import Engine, Unit
from .interrupter import Interrupter
from .lane.control import Control
from .lines import ok_line
from .observer import Observer

log = logging.getLogger(__name__)

_BACKOFF_FIRST_S = 0.5
_BACKOFF_MOST_S = 30.0
_LOOK_EVERY_S = 0.002
_WAIT_MOST_S = 0.2


@dataclass(slots=True)
class _Open:
    """A row that has no line yet."""

    row: Row
    units: list[Unit]
    outputs: list[Any | None]
    missing: int


@dataclass(slots=True)
class ShardRun:
    """The rows of a shard, and the lines of those that are done.

    Args:
        rows: by place in the shard.
        lines: result lines by place; what is in it is not run again.
        tries: how often each place has failed retryably.
        step: asks whether to go on with what is expected to take so long; waits while the lane is held for a
            short time.
        wait: sleeps until a monotonic time or until something changed.
    """

    job_id: str
    rows: dict[int, Row]
    engine: Engine
    budget: BatchBudget
    interrupter: Interrupter
    control: Control
    observer: Observer
    max_attempts: int
    step: Callable[[float], Step]
    wait: Callable[[float], None]
    about_to_run: Callable[[], None]
    lines: dict[int, bytes] = field(default_factory=dict[int, bytes])
    tries: dict[int, int] = field(default_factory=dict[int, int])
    errors: int = 0
    engine_s: float = 0.0
    _due: dict[int, float] = field(default_factory=dict[int, float])
    _alone: set[int] = field(default_factory=set[int])

    def run(self, places: Iterable[int]) -> Step | None:
        """Run these rows until each has a line. Returns the step that ended it early, if one did."""
        pending: list[int] = [place for place in places if place not in self.lines]
        while pending:
            now = time.monotonic()
            ready = [place for place in pending if self._due.get(place, 0.0) <= now]
            if not ready:
                step = self.step(0.0)
                if step.action != "advance":
                    return step
                # Not much longer than it takes to notice that the quantum is over.
                self.wait(min(now + _WAIT_MOST_S, *(self._due[place] for place in pending)))
                continue
            step = self._run_ready(ready)
            if step is not None:
                return step
            pending = [place for place in pending if place not in self.lines]
        return None

    # -- inside ------------------------------------------------------------------------------------------

    def _run_ready(self, places: list[int]) -> Step | None:
        opened: dict[int, _Open] = {}
        queue: list[tuple[int, int, Unit]] = []
        look_at = 0.0
        for place in places:
            # Cutting a row into units is quick for most engines and slow for some: look by time, not by row.
            if (now := time.monotonic()) >= look_at:
                look_at = now + _LOOK_EVERY_S
                step = self.step(_LOOK_EVERY_S)
                if step.action != "advance":
                    return step
            row = self.rows[place]
            try:
                units = self.engine.units(row)
            except Exception as error:  # noqa: BLE001 - whatever the engine raises is the row's result
                units = row_error(error)
            if isinstance(units, RowError):
                self._failed(place, units)
                continue
            opened[place] = _Open(row, list(units), [None] * len(units), len(units))
            for index, unit in enumerate(units):
                queue.append((place, index, unit))
            if not units:
                self._finish(place, opened.pop(place))
        # Longest first: what is padded together is alike, and the largest memory is needed at once, not last.
        queue.sort(key=lambda item: item[2].cost, reverse=True)
        together = [item for item in queue if item[0] not in self._alone]
        for place in sorted(self._alone & opened.keys()):
            step = self._run_queue([item for item in queue if item[0] == place], opened)
            if step is not None:
                return step
        return self._run_queue(together, opened)

    def _run_queue(self, queue: list[tuple[int, int, Unit]], opened: dict[int, _Open]) -> Step | None:
        units = [unit for _, _, unit in queue]
        start = 0
        while start < len(queue):
            budget = max(1, int(self.budget.cost * self.control.batch_share(time.monotonic())))
            size = take_batch(units, start, budget=budget, cost=self.engine.cost)
            batch = queue[start : start + size]
            expected_s = self.budget.expected_s(self.engine.cost(units[start : start + size]))
            step = self.step(expected_s)
            if step.action != "advance":
                return step
            outputs = self._infer(batch, expected_s)
            if outputs is None:
                continue
            start += size
            for (place, index, _), output in zip(batch, outputs, strict=True):
                found = opened.get(place)
                if found is None:
                    continue  # another unit of the row has failed meanwhile
                if isinstance(output, RowError):
                    del opened[place]
                    self._failed(place, output)
                    continue
                found.outputs[index] = output
                found.missing -= 1
                if found.missing == 0:
                    self._finish(place, opened.pop(place))
        return None

    def _infer(self, batch: list[tuple[int, int, Unit]], expected_s: float) -> list[Any] | None:
        """Outputs of a micro-batch; None if it was interrupted and has to be run again."""
        units = [unit for _, _, unit in batch]
        self.about_to_run()
        begin = time.monotonic()
        try:
            with self.interrupter.running(self.engine, expected_s):
                outputs = list(self.engine.infer(units))
        except Interrupted:
            seconds = time.monotonic() - begin
            self.control.interrupted(seconds)
            self.observer.lost(rows=len({place for place, _, _ in batch}), seconds=seconds)
            return None
        except Exception as error:  # noqa: BLE001 - whatever the engine raises is the rows' result
            places = {place for place, _, _ in batch}
            failure = row_error(error)
            if len(places) == 1 or failure.code == "interrupted":
                return [failure] * len(batch)
            log.info("a micro-batch of %d rows failed (%s); they are run one by one", len(places), failure.message)
            self._alone |= places
            return [_RUN_ALONE] * len(batch)
        seconds = time.monotonic() - begin
        self.engine_s += seconds
        self.control.ran(seconds)
        cost = self.engine.cost(units)
        self.budget.observe(cost, seconds)
        self.observer.ran(units=len(units), cost=cost, seconds=seconds)
        if len(outputs) != len(units):
            return [RowError("bad_result", f"the engine gave {len(outputs)} results for {len(units)} units")] * len(
                units
            )
        return outputs

    def _finish(self, place: int, found: _Open) -> None:
        try:
            body = self.engine.finish(found.row, found.outputs)
        except Exception as error:  # noqa: BLE001 - whatever the engine raises is the row's result
            body = row_error(error)
        line = body if isinstance(body, RowError) else ok_line(self.job_id, found.row, body)
        if isinstance(line, RowError):
            self._failed(place, line)
        else:
            self.lines[place] = line
            self.observer.finished(rows=1)

    def _failed(self, place: int, error: RowError) -> None:
        if error is _RUN_ALONE:
            return  # it is still pending, and runs by itself the next time
        tries = self.tries[place] = self.tries.get(place, 0) + 1
        if error.retryable and tries < self.max_attempts:
            pause = min(_BACKOFF_MOST_S, _BACKOFF_FIRST_S * 2 ** (tries - 1)) * random.uniform(0.5, 1.0)  # noqa: S311
            self._due[place] = time.monotonic() + max(pause, error.retry_after_s or 0.0)
            return
        if error.retryable:
            error = RowError(error.code, f"{error.message} (tried {tries} times)")
        row = self.rows[place]
        self.lines[place] = error_line(self.job_id, row.index, row.custom_id, error)
        self.errors += 1
        self.observer.finished(rows=1)


_RUN_ALONE = RowError("run_alone", "a micro-batch failed; its rows are run one by one")
