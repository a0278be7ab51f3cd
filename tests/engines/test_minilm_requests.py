"""What the embedding engine accepts, and how it cuts texts. Needs the tokenizer, not the weights."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdshort.jobs.rows import RowError
from holdshort.workers.engines.minilm import files
from holdshort.workers.engines.minilm.request import Request, parse

tokens = pytest.importorskip("holdshort.workers.engines.minilm.tokens")

PIECES = tokens.WordPieces(files.tokenizer())
NO_LIMIT = 10**9
texts = st.text(max_size=200) | st.lists(
    st.sampled_from(["the", "embedding", "misunderstandings", "naïve", "東京", "2026", "[SEP]", "\n", "́", "a" * 120])
).map(" ".join)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"input": "a"}, Request(["a"], False, False)),
        ({"input": ["a", "b"], "encoding_format": "base64"}, Request(["a", "b"], True, False)),
        ({"input": "a", "model": "any", "user": "u", "dimensions": 384}, Request(["a"], False, False)),
        ({"input": "a", "truncate": True, "encoding_format": "float"}, Request(["a"], False, True)),
        ({"input": "a", "truncate": None, "encoding_format": None, "dimensions": None}, Request(["a"], False, False)),
    ],
)
def test_requests_that_are_accepted(body: dict[str, Any], expected: Request) -> None:
    assert parse("/v1/embeddings", body) == expected
    assert parse("", body) == expected


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({}, "bad_request", '"input" is missing'),
        ({"input": None}, "bad_request", '"input" is missing'),
        ({"input": 3}, "bad_request", '"input" is of type int; it has to be a text'),
        ({"input": ""}, "bad_request", '"input" is an empty text'),
        ({"input": []}, "bad_request", "empty list"),
        ({"input": ["a", ""]}, "bad_request", '"input[1]" is an empty text'),
        ({"input": ["a", {"text": "b"}]}, "bad_request", '"input[1]" is of type dict, not a text.'),
        ({"input": [1, 2]}, "bad_request", "Token numbers are not accepted"),
        ({"input": "\ud800"}, "bad_request", "surrogate"),
        ({"input": "a", "encoding_format": "hex"}, "bad_request", "\"encoding_format\" is 'hex'"),
        ({"input": "a", "encoding_format": ["float"]}, "bad_request", '"encoding_format"'),
        ({"input": "a", "dimensions": 256}, "bad_request", '"dimensions" is 256; this model has 384'),
        ({"input": "a", "dimensions": 384.0}, "bad_request", '"dimensions"'),
        ({"input": "a", "truncate": 1}, "bad_request", '"truncate" is 1'),
        ({"input": "a", "dimension": 384}, "unknown_parameter", "'dimension' is no parameter of an embedding; did you"),
        ({"messages": []}, "unknown_parameter", "'messages'"),
    ],
)
def test_requests_that_are_refused(body: dict[str, Any], code: str, message: str) -> None:
    error = parse("", body)
    assert isinstance(error, RowError)
    assert error.code == code
    assert message in error.message
    assert not error.retryable


def test_rows_for_another_endpoint_are_refused() -> None:
    error = parse("/v1/chat/completions", {"messages": []})
    assert isinstance(error, RowError)
    assert "/v1/embeddings, not /v1/chat/completions" in error.message


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=texts, piece=st.integers(1, 40))
def test_reading_in_pieces_gives_the_same_tokens(monkeypatch: pytest.MonkeyPatch, text: str, piece: int) -> None:
    whole = PIECES.read(text, most=NO_LIMIT)
    monkeypatch.setattr(tokens, "_PIECE_CHARS", piece)
    assert PIECES.read(text, most=NO_LIMIT) == whole
    assert whole.is_whole


@settings(max_examples=100, deadline=None)
@given(text=texts.map(lambda text: text * 20))
def test_windows_hold_every_token_once_and_split_no_word(text: str) -> None:
    read = PIECES.read(text, most=NO_LIMIT)
    windows = read.windows()
    assert all(window[0] == 101 and window[-1] == 102 and 3 <= len(window) <= 256 for window in windows)
    assert [token for window in windows for token in window[1:-1]] == read.ids
    start = 0
    for window in windows:
        assert read.begins[start]
        start += len(window) - 2


def test_a_text_at_the_edge_of_the_window_is_not_cut() -> None:
    assert [len(window) for window in PIECES.read("go " * 254, most=NO_LIMIT).windows()] == [256]
    assert [len(window) for window in PIECES.read("go " * 255, most=NO_LIMIT).windows()] == [256, 3]


def test_a_truncated_text_keeps_its_first_window() -> None:
    assert PIECES.read("go " * 300, most=10).first_window() == PIECES.read("go " * 254, most=NO_LIMIT).windows()[0]


def test_a_huge_text_is_read_only_as_far_as_the_limit() -> None:
    read = PIECES.read("go " * 1_000_000, most=100)
    assert not read.is_whole
    assert 100 < len(read.ids) < 10_000
