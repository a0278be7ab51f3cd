"""What an exception becomes for a row."""

from __future__ import annotations

import pytest

from holdshort.storage.errors import EngineError, StoreUnavailable
from holdshort.workers.engines.failures import retryable, row_error


class Said(Exception):
    def __init__(self, *, retryable: object = None, retry_after_s: object = None) -> None:
        super().__init__("as said")
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class SaidNo(ConnectionError):
    retryable = False


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionResetError("peer"), True),
        (TimeoutError(), True),
        (StoreUnavailable("away"), True),
        (Said(retryable=True), True),
        (Said(retryable="yes"), False),
        (SaidNo("final"), False),
        (ValueError("bad"), False),
        (EngineError("bad"), False),
    ],
)
def test_what_may_succeed_later(error: Exception, expected: bool) -> None:
    assert retryable(error) is expected
    assert row_error(error).retryable is expected


@pytest.mark.parametrize(
    ("said", "passed_on"),
    [(2, 2.0), (0.5, 0.5), (None, None), ("3", None), (-1, None), (float("nan"), None), (True, None)],
)
def test_a_time_to_wait_is_passed_on_if_it_is_one(said: object, passed_on: float | None) -> None:
    assert row_error(Said(retry_after_s=said)).retry_after_s == passed_on


def test_the_message_is_type_and_text_and_nothing_else() -> None:
    try:
        secret = "hunter2"
        raise ValueError("cannot digest " + secret[:0] + "this")
    except ValueError as caught:
        error = row_error(caught)
    assert (error.code, error.message) == ("engine_error", "ValueError: cannot digest this")
    assert row_error(KeyError()).message == "KeyError"
    assert row_error(Unprintable()).message == "Unprintable"
    assert row_error(EngineError("Ours speaks for itself.")).message == "Ours speaks for itself."


def test_the_message_is_bounded() -> None:
    message = row_error(ValueError("x" * 10_000)).message
    assert len(message) == 2000
    assert message.endswith("…")
