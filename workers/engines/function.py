"""The user's own Python function as an engine."""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, cast

import orjson

from ...jobs.rows import Row, RowError
from ...storage.errors import EngineError, Interrupted
from . import targets
from .failures import row_error
from .protocol import BaseEngine, EngineInfo, Unit

_BATCH_ROWS = 32


class FunctionEngine(BaseEngine):
    """Calls a function with a list of rows; it returns one answer per row, in order.

    An answer is a dict (the response body), any other JSON value (wrapped as `{"output": value}`), or a RowError or
    an exception for that row alone. What the function raises counts against all rows of the call; the runner then
    tries them one by one. An async function runs in an event loop that this engine owns and keeps; a plain one
    can't be stopped while it runs, so a call should take less than the pool's yield bound.

    Args:
        target: "module:name" of the function, of a callable object, or of a class that is called without arguments
            when the engine loads (the place to load a model). Searched in the current directory first.
        cost: "module:name" of a function that says what a row costs (an int of at least 1, in any currency that
            grows with the time the row takes); without it every row costs 1.
        batch_rows: rows in one call, at most. How many it really gets is learned from how long calls take.
    """

    def __init__(self, target: str, *, cost: str | None = None, batch_rows: int = _BATCH_ROWS) -> None:
        self._target = targets.check("target", target)
        self._cost_target = None if cost is None else targets.check("cost", cost)
        if type(batch_rows) is not int or batch_rows < 1:
            raise EngineError(f"batch_rows = {batch_rows!r} is not a whole number of at least 1.")
        self._batch_rows = batch_rows
        self._function: Callable[[list[Row]], Any] | None = None
        self._row_cost: Callable[[Row], Any] | None = None
        self._version = self._target
        self._async = _Async()
        self._lock = threading.Lock()
        self._running = False
        self._stop = False

    @property
    def info(self) -> EngineInfo:
        """The version is "module:name@<12 hex digits>": the sha256 of the file that defines the function."""
        return EngineInfo("function", self._version)

    def load(self) -> None:
        found = targets.find("target", self._target)
        digest = targets.source_digest(found)
        self._function = self._callable(found)
        if self._cost_target is not None:
            self._row_cost = targets.find("cost", self._cost_target)
            if not callable(self._row_cost):
                raise EngineError(f"cost = {self._cost_target!r} is not callable.")
        self._version = f"{self._target}@{digest}" if digest else self._target

    def units(self, row: Row) -> Sequence[Unit] | RowError:
        if self._row_cost is None:
            return [Unit(1, row)]
        cost = self._row_cost(row)
        if type(cost) is not int or cost < 1:
            raise EngineError(
                f"{self._cost_target} said that the row costs {cost!r}; it has to be an int of at least 1."
            )
        return [Unit(cost, row)]

    def cost(self, units: Sequence[Unit]) -> int:
        """The sum; beyond `batch_rows` more than any budget, so that no micro-batch gets that long."""
        return super().cost(units) if len(units) <= self._batch_rows else sys.maxsize

    def infer(self, units: Sequence[Unit]) -> Sequence[Any | RowError]:
        if self._function is None:
            raise EngineError(f"The function {self._target} is not loaded.")
        with self._lock:
            self._running, self._stop = True, False
        try:
            answers: list[Any | RowError] = []
            for start in range(0, len(units), self._batch_rows):
                if self._stop:
                    raise Interrupted(f"{self._target} was stopped between two calls")
                answers += self._call(
                    self._function, [unit.payload for unit in units[start : start + self._batch_rows]]
                )
            return answers
        finally:
            with self._lock:
                self._running = False

    def finish(self, row: Row, outputs: Sequence[Any]) -> dict[str, Any] | RowError:
        return outputs[0]

    def interrupt(self) -> None:
        """Cancels an async function; a plain one goes on until its call returns."""
        with self._lock:
            if self._running:
                self._stop = True
                self._async.cancel()

    def close(self) -> None:
        self._function = None
        self._async.close()

    # -- inside ------------------------------------------------------------------------------------------

    def _callable(self, found: Any) -> Callable[[list[Row]], Any]:
        if isinstance(found, type):
            try:
                found = found()
            except Exception as error:
                raise EngineError(f"The class {self._target} can't be made: {type(error).__name__}: {error}") from error
        if not callable(found):
            raise EngineError(f"target = {self._target!r} is of type {type(found).__name__}, which can't be called.")
        for code in (found, getattr(found, "__call__", None)):  # noqa: B004 - the method itself is looked at
            if inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
                raise EngineError(
                    f"{self._target} is a generator. Return a list with one answer per row instead of yielding them."
                )
        return found

    def _call(self, function: Callable[[list[Row]], Any], rows: list[Row]) -> list[Any | RowError]:
        try:
            result = function(rows)
            if inspect.isawaitable(result):
                result = self._async.run(result, lambda: self._stop)
        except asyncio.CancelledError:
            if self._stop:
                raise Interrupted(f"{self._target} was cancelled") from None
            raise EngineError(f"{self._target} was cancelled from within: an await raised CancelledError.") from None
        problem = self._problem(result, len(rows))
        if problem is None:
            return [self._answer(item) for item in result]
        if len(rows) == 1:
            return [RowError("bad_result", problem)]
        # Raised, so that the runner finds by single calls which rows have an answer.
        raise EngineError(problem)

    def _problem(self, result: Any, rows: int) -> str | None:
        kind = type(result).__name__
        if isinstance(result, str | bytes | Mapping | AbstractSet) or not hasattr(result, "__len__"):
            return f"{self._target} returned a {kind}; it has to return a list with one answer per row."
        if len(result) != rows:
            return f"{self._target} returned {len(result)} answers for {rows} rows; it has to return one per row."
        return None

    def _answer(self, item: Any) -> dict[str, Any] | RowError:
        if isinstance(item, RowError):
            return item
        if isinstance(item, BaseException):
            return row_error(item)
        body = cast("dict[str, Any]", item) if isinstance(item, dict) else {"output": item}
        try:
            orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        except TypeError as error:
            return RowError("bad_result", f"{self._target} answered with what is no JSON: {error}")
        return body


class _Async:
    """An event loop that is kept between calls, so that a function's connections stay open."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None
        self._task: asyncio.Task[Any] | None = None
        self._lock = threading.Lock()

    def run(self, awaitable: Awaitable[Any], stopped: Callable[[], bool]) -> Any:
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(self._await(awaitable, stopped))

    def cancel(self) -> None:
        """Cancel what runs now, if anything does; called from another thread."""
        with self._lock:
            if self._task is not None:
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    async def _await(self, awaitable: Awaitable[Any], stopped: Callable[[], bool]) -> Any:
        with self._lock:
            self._task = asyncio.current_task()
        try:
            if stopped() and self._task is not None:
                self._task.cancel()  # the interrupt came before there was a task to cancel
            return await awaitable
        finally:
            with self._lock:
                self._task = None
