"""Events come out of a stream the same, however its bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdshort.workers.models.events import Event, EventReader

STREAM = (
    "\ufeffdata: {\"a\": 1}\n\n: a comment\n\nevent: error\r\ndata: naïve 東京 🦉\r\ndata:second line\r\n\r\n"
    "id: 7\rretry: 10\rdata\r\rdata:  two spaces\n\nevent: left alone\n\ndata: [DONE]\n\ndata: cut off"
)  # fmt: skip
EVENTS = [
    Event('{"a": 1}'),
    Event("naïve 東京 🦉\nsecond line", "error"),
    Event(""),
    Event(" two spaces"),
    Event("[DONE]"),
]


def _read(*chunks: bytes) -> list[Event]:
    reader = EventReader()
    return [event for chunk in chunks for event in reader.feed(chunk)]


def test_a_whole_stream() -> None:
    assert _read(STREAM.encode()) == EVENTS


def test_byte_by_byte() -> None:
    assert _read(*(bytes([byte]) for byte in STREAM.encode())) == EVENTS


@given(cuts=st.lists(st.integers(0, len(STREAM.encode())), max_size=12))
def test_any_cuts(cuts: list[int]) -> None:
    data, edges = STREAM.encode(), [0, *sorted(cuts), len(STREAM.encode())]
    assert _read(*(data[a:b] for a, b in pairwise(edges))) == EVENTS


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_an_event_comes_with_its_last_byte_and_not_later(end: str) -> None:
    chunk = f"data: x{end}{end}".encode()
    if end == "\r\n":
        assert _read(chunk[:-1]) == [Event("x")]  # its CR says it already
        assert _read(chunk[:-1], chunk[-1:]) == [Event("x")]
    else:
        assert _read(chunk[:-1]) == []
        assert _read(chunk) == [Event("x")]


@given(chunks=st.lists(st.binary(max_size=40), max_size=10))
def test_no_bytes_break_it(chunks: list[bytes]) -> None:
    assert _read(*chunks) == _read(b"".join(chunks))
