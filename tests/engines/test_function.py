"""The user's own function as an engine."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdshort.jobs.rows import Row, RowError
from holdshort.storage.errors import EngineError, Interrupted
from holdshort.workers.engines.function import FunctionEngine

SOURCE = """
import asyncio, functools, threading
from holdshort.jobs.rows import RowError

calls = []
started = threading.Event()
cleaned_up = threading.Event()

def double(rows):
    calls.append(len(rows))
    return [{"n": 2 * row.body["n"]} for row in rows]

def mixed(rows):
    errors = [RowError("no", "refused"), ConnectionError("later")]
    return [{"a": 1}, 7, None, [1.5], *errors, {1, 2}, {"x": object()}]

def picky(rows):
    return [row.body for row in rows if row.body["n"] >= 0]

def failing(rows):
    raise ValueError("no")

def size(row):
    return row.body["n"]

def gen(rows):
    yield from rows

async def agen(rows):
    for row in rows:
        yield row

def hidden_gen(rows):
    return (row.body for row in rows)

def text(rows):
    return "ab"

def mapping(rows):
    return {row.custom_id: 1 for row in rows}

def array(rows):
    import numpy
    return numpy.ones((len(rows), 2), numpy.float32)

loops = set()

async def later(rows):
    loops.add(asyncio.get_running_loop())
    return [row.body["n"] for row in rows]

async def forever(rows):
    if rows[0].body["n"] == 0:
        return [0]
    started.set()
    try:
        await asyncio.Event().wait()
    finally:
        cleaned_up.set()

async def cancels_itself(rows):
    raise asyncio.CancelledError

class Model:
    def __init__(self):
        self.loaded = True
    def __call__(self, rows):
        return [self.loaded] * len(rows)
    def method(self, rows):
        return ["method"] * len(rows)

class Broken:
    def __init__(self):
        raise OSError("no weights")

class Yields:
    def __call__(self, rows):
        yield 1

class AsyncModel:
    async def __call__(self, rows):
        return ["async"] * len(rows)

model = Model()
partial = functools.partial(double)
number = 3
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with the module `mine`, as current directory."""
    (tmp_path / "mine.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("mine", "mime"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path / "mine.py"


@pytest.fixture
def make(mine: Path) -> Iterator[Callable[..., FunctionEngine]]:
    made: list[FunctionEngine] = []

    def make(name: str, **options: Any) -> FunctionEngine:
        engine = FunctionEngine(f"mine:{name}", **options)
        made.append(engine)
        engine.load()
        return engine

    yield make
    for engine in made:
        engine.close()
    sys.modules.pop("mine", None)


def rows(*numbers: int) -> list[Row]:
    return [Row(index, f"r{index}", {"n": number}) for index, number in enumerate(numbers)]


def answers(engine: FunctionEngine, given: list[Row]) -> list[Any]:
    units = []
    for row in given:
        found = engine.units(row)
        assert not isinstance(found, RowError)
        units += found
    outputs = engine.infer(units)
    return [
        output if isinstance(output, RowError) else engine.finish(row, [output])
        for row, output in zip(given, outputs, strict=True)
    ]


def test_each_row_gets_its_answer_in_order(make: Callable[..., FunctionEngine]) -> None:
    assert answers(make("double"), rows(1, 2, 3)) == [{"n": 2}, {"n": 4}, {"n": 6}]


def test_answers_are_bodies_values_or_errors(make: Callable[..., FunctionEngine]) -> None:
    found = answers(make("mixed"), rows(*range(8)))
    assert found[:4] == [{"a": 1}, {"output": 7}, {"output": None}, {"output": [1.5]}]
    assert found[4] == RowError("no", "refused")
    assert found[5] == RowError("engine_error", "ConnectionError: later", retryable=True)
    assert [error.code for error in found[6:]] == ["bad_result", "bad_result"]
    assert "set" in found[6].message


def test_arrays_are_taken_row_by_row(make: Callable[..., FunctionEngine]) -> None:
    assert [list(answer["output"]) for answer in answers(make("array"), rows(1, 2))] == [[1, 1], [1, 1]]


def test_a_wrong_number_of_answers_is_raised_for_many_rows_and_told_for_one(
    make: Callable[..., FunctionEngine],
) -> None:
    engine = make("picky")
    with pytest.raises(EngineError, match="mine:picky returned 2 answers for 3 rows"):
        answers(engine, rows(1, -1, 2))
    assert answers(engine, rows(1)) == [{"n": 1}]
    (error,) = answers(engine, rows(-1))
    assert error == RowError("bad_result", "mine:picky returned 0 answers for 1 rows; it has to return one per row.")


@pytest.mark.parametrize(("name", "kind"), [("hidden_gen", "generator"), ("text", "str"), ("mapping", "dict")])
def test_what_is_no_list_is_told(make: Callable[..., FunctionEngine], name: str, kind: str) -> None:
    (error,) = answers(make(name), rows(1))
    assert error.code == "bad_result"
    assert f"returned a {kind}; it has to return a list" in error.message


@pytest.mark.parametrize("name", ["gen", "agen", "Yields"])
def test_generators_are_refused_at_load(make: Callable[..., FunctionEngine], name: str) -> None:
    with pytest.raises(EngineError, match=r"is a generator. Return a list"):
        make(name)


def test_what_the_function_raises_reaches_the_runner(make: Callable[..., FunctionEngine]) -> None:
    with pytest.raises(ValueError, match="no"):
        answers(make("failing"), rows(1, 2))


def test_no_call_gets_more_than_batch_rows(make: Callable[..., FunctionEngine]) -> None:
    engine = make("double", batch_rows=3)
    answers(engine, rows(*range(8)))
    assert sys.modules["mine"].calls == [3, 3, 2]
    units = [unit for row in rows(*range(4)) for unit in engine.units(row)]  # type: ignore[union-attr]
    assert engine.cost(units[:3]) == 3
    assert engine.cost(units) > 10**15


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, "8"])
def test_a_batch_rows_that_is_no_number_is_refused(mine: Path, wrong: object) -> None:
    with pytest.raises(EngineError, match="batch_rows"):
        FunctionEngine("mine:double", batch_rows=wrong)  # type: ignore[arg-type]


def test_a_function_may_say_what_a_row_costs(make: Callable[..., FunctionEngine]) -> None:
    engine = make("double", cost="mine:size")
    (row,) = rows(17)
    units = engine.units(row)
    assert not isinstance(units, RowError)
    assert [unit.cost for unit in units] == [17]
    with pytest.raises(EngineError, match="costs 0; it has to be an int of at least 1"):
        engine.units(rows(0)[0])
    with pytest.raises(EngineError, match="not callable"):
        make("double", cost="mine:number")


def test_async_functions_share_one_loop(make: Callable[..., FunctionEngine]) -> None:
    engine = make("later")
    assert answers(engine, rows(1)) + answers(engine, rows(2)) == [{"output": 1}, {"output": 2}]
    assert len(sys.modules["mine"].loops) == 1
    assert answers(make("AsyncModel"), rows(1)) == [{"output": "async"}]


def test_an_interrupt_cancels_an_async_function_and_no_later_call(make: Callable[..., FunctionEngine]) -> None:
    engine = make("forever")
    engine.interrupt()  # nothing runs, so nothing is stopped
    assert answers(engine, rows(0)) == [{"output": 0}]
    module = sys.modules["mine"]
    stopper = threading.Thread(target=lambda: (module.started.wait(30), engine.interrupt()))
    stopper.start()
    with pytest.raises(Interrupted):
        answers(engine, rows(1))
    stopper.join(30)
    assert module.cleaned_up.is_set()
    assert answers(engine, rows(0)) == [{"output": 0}]


def test_an_await_that_cancels_itself_is_an_error_not_the_end(make: Callable[..., FunctionEngine]) -> None:
    with pytest.raises(EngineError, match="cancelled from within"):
        answers(make("cancels_itself"), rows(1))


def test_an_interrupt_between_two_calls_stops_a_plain_function(
    make: Callable[..., FunctionEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make("double", batch_rows=1)
    module = sys.modules["mine"]
    monkeypatch.setattr(engine, "_function", lambda found: (engine.interrupt(), module.double(found))[1])
    with pytest.raises(Interrupted):
        answers(engine, rows(1, 2))
    assert module.calls == [1]


@pytest.mark.parametrize(
    ("name", "answer"), [("Model", True), ("model", True), ("model.method", "method"), ("partial", None)]
)
def test_any_callable_will_do(make: Callable[..., FunctionEngine], name: str, answer: object) -> None:
    (found,) = answers(make(name), rows(1))
    assert found == ({"output": answer} if answer else {"n": 2})


@pytest.mark.parametrize("name", ["double", "Model", "model", "model.method", "partial", "later"])
def test_the_version_names_the_code(make: Callable[..., FunctionEngine], mine: Path, name: str) -> None:
    digest = hashlib.sha256(mine.read_bytes()).hexdigest()[:12]
    info = make(name).info
    assert info.version == f"mine:{name}@{digest}"
    assert info.fingerprint == f"function/mine:{name}@{digest}"


def test_code_without_a_file_is_named_alone() -> None:
    engine = FunctionEngine("math:sqrt")
    engine.load()
    assert engine.info.version == "math:sqrt"


@pytest.mark.parametrize("wrong", ["mine", "mine:", ":double", "mine/x.py:double", "", 3])
def test_a_target_of_another_form_is_refused(wrong: Any) -> None:
    with pytest.raises(EngineError, match=r'not of the form "module:name"'):
        FunctionEngine(wrong)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("mime:double", r"there is no module 'mime'; did you mean 'mine'\?"),
        ("mine:doubel", r"mine has no attribute 'doubel'; did you mean 'double'\?"),
        ("mine:model.metod", r"mine.model has no attribute 'metod'; did you mean 'method'\?"),
        ("json.decodr:x", r"there is no module 'json.decodr'; did you mean 'json.decoder'\?"),
        ("mine:number", "is of type int, which can't be called"),
        ("mine:Broken", "can't be made: OSError: no weights"),
        ("needs:x", "needs needs the module 'no_such_thing', which is not installed"),
        ("wrong:x", "importing wrong failed: SyntaxError"),
    ],
)
def test_a_target_that_cannot_be_used_says_why(mine: Path, target: str, message: str) -> None:
    (mine.parent / "needs.py").write_text("import no_such_thing\n")
    (mine.parent / "wrong.py").write_text("def x(:\n")
    with pytest.raises(EngineError, match=message):
        FunctionEngine(target).load()


def test_an_engine_that_is_not_loaded_says_so(mine: Path) -> None:
    with pytest.raises(EngineError, match="not loaded"):
        FunctionEngine("mine:double").infer([])
