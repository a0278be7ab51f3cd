"""Single rows: both shapes, from lines and from Python, and what is refused about one."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from holdshort.jobs.input import InputRow, Limits, RefusedInput, pack, parse, read_rows

EXAMPLE = '{"custom_id": "doc-1", "input": "some text"}'


def lines_of(tmp_path: Path, *lines: bytes) -> list[InputRow]:
    file = tmp_path / "input.jsonl"
    file.write_bytes(b"\n".join(lines) + b"\n")
    return list(read_rows(file))


def refused(source: Any, **more: Any) -> RefusedInput:
    with pytest.raises(RefusedInput) as caught:
        list(pack(read_rows(source, **more), shard_rows=10, limits=more.get("limits", Limits())))
    return caught.value


def refused_line(tmp_path: Path, line: bytes, **more: Any) -> str:
    """The message for a bad second line, without the name of the test's folder."""
    file = tmp_path / "input.jsonl"
    file.write_bytes(b'{"custom_id": "a", "input": "fine"}\n' + line + b'\n{"input": "fine too"}\n')
    error = refused(file, **more)
    assert len(error.problems) == 1
    assert error.complete
    assert error.problems[0].line == 2
    return str(error).replace(f"{tmp_path}/", "")


def test_a_line_in_openai_shape_is_kept_byte_for_byte(tmp_path: Path) -> None:
    line = b'{"custom_id": "a" , "method":"POST",  "url": "/v1/embeddings","body":{"x": 1e2, "input":"\\u00e9"}}'
    (row,) = lines_of(tmp_path, b"  " + line + b"\r")
    assert row == InputRow("a", line, f"{tmp_path}/input.jsonl, line 1")
    assert parse(row.line) == ("a", "/v1/embeddings", {"x": 100.0, "input": "é"})


def test_a_plain_line_becomes_a_body(tmp_path: Path) -> None:
    named, nameless, empty = lines_of(
        tmp_path, b'{"custom_id":"a","input":"text","model":"m"}', b'{"input":["t1","t2"], "user": "u"}', b'{"body":{}}'
    )
    assert parse(named.line) == ("a", "", {"input": "text", "model": "m"})
    assert parse(nameless.line) == ("row-2", "", {"input": ["t1", "t2"], "user": "u"})
    assert parse(empty.line) == ("row-3", "", {})


def test_blank_lines_count_but_are_no_rows(tmp_path: Path) -> None:
    rows = lines_of(tmp_path, b"", b'{"input":"a"}', b" \r", b"\t", b'{"input":"b"}', b"")
    assert [(row.custom_id, row.where[-6:]) for row in rows] == [("row-2", "line 2"), ("row-5", "line 5")]


def test_a_last_line_needs_no_newline_and_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "marked.ndjson"
    file.write_bytes(b'\xef\xbb\xbf{"input":"a"}\n{"input":"b"}')
    assert [parse(row.line)[2] for row in read_rows(file)] == [{"input": "a"}, {"input": "b"}]


def test_rows_may_be_texts_and_mappings() -> None:
    given: list[Any] = [
        "a text",
        {"input": "plain", "dimensions": 3},
        {"custom_id": "mine", "url": "/v1/completions", "body": {"prompt": "x"}, "note": "dropped"},
        MappingProxyType({"custom_id": "view", "input": "x", "price": Decimal("1.50"), "more": MappingProxyType({})}),
    ]
    rows = list(read_rows(given))
    assert [parse(row.line) for row in rows] == [
        ("row-1", "", {"input": "a text"}),
        ("row-2", "", {"input": "plain", "dimensions": 3}),
        ("mine", "/v1/completions", {"prompt": "x"}),
        ("view", "", {"input": "x", "price": "1.50", "more": {}}),
    ]
    assert [row.where for row in rows] == ["row 1", "row 2", "row 3", "row 4"]
    assert b"dropped" not in rows[2].line
    assert given[1] == {"input": "plain", "dimensions": 3}, "what the caller gave is not changed"


def test_a_generator_is_consumed_as_it_is_needed() -> None:
    taken: list[int] = []

    def rows() -> Iterable[str]:
        for number in range(100):
            taken.append(number)
            yield "text"

    first = next(read_rows(rows()))
    assert first.custom_id == "row-1"
    assert taken == [0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            b'{"custom_id": "b", "input": "x",}',
            "is not JSON: trailing comma is not allowed, at column 32.\n"
            f"Each line must hold one whole JSON object, like {EXAMPLE}.",
        ),
        (
            '{"custom_id": "é日本", "input": x}'.encode(),
            "is not JSON: unexpected character, expected a JSON value, at column 31.\n"
            f"Each line must hold one whole JSON object, like {EXAMPLE}.",
        ),
        (
            b"{",
            "is not JSON: unexpected end of data, at column 2.\n"
            f"Each line must hold one whole JSON object, like {EXAMPLE}.",
        ),
        (
            b'{"input": "x", "temperature": NaN}',
            "NaN, at column 31, is not JSON.\nWrite null, or leave the key out.",
        ),
        (
            b'{"input": "x", "temperature": -Infinity}',
            "-Infinity, at column 31, is not JSON.\nWrite null, or leave the key out.",
        ),
        (b'["x"]', f"holds an array, not an object.\nWrite each row like {EXAMPLE}."),
        (b'"x"', f"holds a string, not an object.\nWrite each row like {EXAMPLE}."),
        (b"null", f"holds null, not an object.\nWrite each row like {EXAMPLE}."),
        (b'{"custom_id": "b"}', f'has neither "input" nor "body".\nWrite each row like {EXAMPLE}.'),
        (b'{"input": null}', f'"input" is null.\nWrite each row like {EXAMPLE}.'),
        (
            b'{"messages": []}',
            'has neither "input" nor "body".\n'
            'Put what the engine should get into "body": {"custom_id": …, "body": {"messages": …}}.',
        ),
        (
            b'{"custom_id": "b", "body": "x"}',
            '"body" is a string, not an object.\n'
            'Write it like {"custom_id": "doc-1", "body": {"input": "some text"}}.',
        ),
        (
            b'{"custom_id": "b", "body": {}, "input": "x"}',
            'has both "input" and "body".\nPut "input" inside "body", or leave one out.',
        ),
        (b'{"custom_id": 7, "input": "x"}', "custom_id is a number, not a string.\nPut it in quotes."),
        (
            b'{"custom_id": null, "input": "x"}',
            "custom_id is null, not a string.\nWrite a string, or leave it out.",
        ),
        (
            b'{"custom_id": "", "body": {}}',
            "custom_id is empty.\nGive the row a name of its own, or leave custom_id out.",
        ),
        (
            b'{"custom_id": "%b", "body": {}}' % (b"x" * 513),
            "custom_id has 513 characters; 512 are allowed.\n"
            "Shorten it; what it stood for can go into the body's metadata.",
        ),
        (
            b'{"custom_id": "b\\u0007", "body": {}}',
            'custom_id "b\\u0007" holds a control character.\n'
            "Take it out: an id appears in file names, logs and tables.",
        ),
        (b'{"method": "GET", "body": {}}', 'method is "GET".\nWrite "POST", or leave it out.'),
        (b'{"url": 3, "body": {}}', 'url is a number, not a string.\nWrite it like "/v1/embeddings", or leave it out.'),
        (
            b'{"input": "caf\xe9"}',
            "byte 0xE9 at offset 14 of the line is not UTF-8.\n"
            "Save the file as UTF-8, for example by: iconv -f WINDOWS-1252 -t UTF-8 <old >new.",
        ),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_with_its_cure(tmp_path: Path, line: bytes, message: str) -> None:
    assert refused_line(tmp_path, line) == f"input.jsonl, line 2: {message} Nothing was submitted."


@pytest.mark.parametrize("custom_id", ["doc 1/ä.txt", "日本", "a\u00a0b", "👩‍👩‍👧", "x" * 512, '"\\'])
def test_an_unusual_custom_id_is_fine(custom_id: str) -> None:
    (row,) = read_rows([{"custom_id": custom_id, "input": "x"}])
    assert row.custom_id == parse(row.line)[0] == custom_id


@pytest.mark.parametrize(
    ("row", "code", "message"),
    [
        (7, "bad_row_type", "is a Python int, neither text nor a mapping."),
        (b"x", "bad_row_type", "is a Python bytes, neither text nor a mapping."),
        ({"input": "x", "top_p": float("nan")}, "bad_json", "holds NaN or an infinity, which JSON has not."),
        ({"body": {"a": [{"b": float("-inf")}]}}, "bad_json", "holds NaN or an infinity, which JSON has not."),
        ({"input": object()}, "not_json", "can't be written as JSON: Type is not JSON serializable: object."),
        ({"input": {1: "x"}}, "not_json", "can't be written as JSON: Dict key must be str."),
        ({"input": 2**70}, "not_json", "can't be written as JSON: Integer exceeds 64-bit range."),
        ("\ud800", "not_json", "can't be written as JSON: str is not valid UTF-8: surrogates not allowed."),
        ({"custom_id": 1.5, "input": "x"}, "bad_custom_id", "custom_id is a number, not a string."),
        ({"custom_id": ("a",), "input": "x"}, "bad_custom_id", "custom_id is an array, not a string."),
        ({"method": float("nan"), "body": {}}, "bad_method", "method is nan."),
    ],
)  # fmt: skip
def test_a_bad_python_row_is_named(row: Any, code: str, message: str) -> None:
    error = refused(["fine", row, "fine"])
    assert [(p.where, p.code, p.message) for p in error.problems] == [("row 2", code, message)]
    assert error.problems[0].line is None


def test_null_in_a_python_row_is_no_nan() -> None:
    (row,) = read_rows([{"input": "null", "stop": None, "list": [None, 1.5]}])
    assert parse(row.line)[2] == {"input": "null", "stop": None, "list": [None, 1.5]}


def test_all_problems_are_told_at_once_in_their_order(tmp_path: Path) -> None:
    file = tmp_path / "input.jsonl"
    file.write_bytes(b'{"custom_id":"a","input":"x"}\nnope\n{"custom_id":"a","input":"y"}\n{"body":3}\n')
    error = refused(file)
    assert [(p.line, p.code) for p in error.problems] == [(2, "bad_json"), (4, "bad_body"), (3, "duplicate_custom_id")]
    assert str(error).endswith(f"like {EXAMPLE}. And 2 more problems. Nothing was submitted.")


def test_reading_stops_at_the_limit_of_problems() -> None:
    taken: list[int] = []

    def rows() -> Iterable[Any]:
        for number in range(1000):
            taken.append(number)
            yield number

    error = refused(rows(), limits=Limits(problems=3))
    assert len(error.problems) == 3
    assert not error.complete
    assert len(taken) == 4
    assert "And at least 3 more problems. Nothing was submitted." in str(error)


def test_exactly_as_many_problems_as_the_limit_are_all_of_them() -> None:
    error = refused([1, 2, 3], limits=Limits(problems=3))
    assert error.complete
    assert "And 2 more problems." in str(error)


def test_a_row_is_measured_as_it_will_be_stored() -> None:
    error = refused(["\x01" * 1000], limits=Limits(row_bytes=2000))
    (problem,) = error.problems
    assert (problem.code, problem.message) == ("row_too_long", "is 6,041 bytes long; a row may have 2,000.")
    assert problem.cure == "Split it into several rows."


@pytest.mark.parametrize("source", [b"docs", {"input": "x"}, 7])
def test_what_is_no_source_is_refused(source: Any) -> None:
    error = refused(source)
    assert str(error) == (
        f"the input: is a Python {type(source).__name__}.\n"
        "Give rows (a list or any iterable), a path, a glob or a URL. Nothing was submitted."
    )


@pytest.mark.parametrize("source", [[], (), iter([])])
def test_no_rows_are_refused(source: Any) -> None:
    assert str(refused(source)) == "the rows: holds no rows.\nSubmit at least one. Nothing was submitted."


def test_an_error_of_the_callers_generator_comes_through() -> None:
    def rows() -> Iterable[str]:
        yield "x"
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        list(read_rows(rows()))
