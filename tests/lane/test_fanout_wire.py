"""The text in which a word travels between hosts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdshort.workers.lane import wire
from holdshort.workers.lane.reading import Figures
from holdshort.workers.lane.record import Word

S = 1_000_000_000
DURATIONS = st.one_of(st.none(), st.floats(0, 1e6))


def text(**changes: Any) -> str:
    """A sound text, but for these changes of its word ("word_…") or of itself."""
    word = {
        "pool": "embed", "slot": "gateway.1", "opened": 1, "source": "gateway", "device": "", "state": "hold",
        "headroom": 0.0, "reason": "live", "since_ago_s": 0.5, "ends_in_s": None,
    }  # fmt: skip
    whole: dict[str, Any] = {
        "v": 1, "kind": "words", "store": "0" * 16, "host": "1" * 16, "host_name": "b", "pid": 1, "seq": 1,
        "beat_s": 0.25, "words": [word],
    }  # fmt: skip
    for name, value in changes.items():
        (word if name.startswith("word_") else whole)[name.removeprefix("word_")] = value
    return json.dumps(whole)


@given(
    st.sampled_from(["clear", "hold", "closed"]),
    st.floats(0, 1),
    st.text(max_size=700),
    st.integers(0, 10**15),
    st.one_of(st.none(), st.integers(-(10**15), 10**15)),
    st.builds(Figures, st.integers(0, 1000), DURATIONS, DURATIONS, DURATIONS, DURATIONS),
)
def test_a_word_arrives_as_it_was_said_on_the_other_hosts_clock(
    state: Any, headroom: float, reason: str, held_ns: int, left_ns: int | None, figures: Figures
) -> None:
    there, here = 10**16, 3 * 10**17  # the two hosts' monotonic clocks at the same moment
    until = None if left_ns is None else there + left_ns
    said = wire.say(
        "embed", "g.1", 5, "g", "", Word(state, headroom, reason, there, there - held_ns, until, figures), now_ns=there
    )
    whole = wire.Words(store="0" * 16, host="1" * 16, host_name="b", pid=1, seq=1, beat_s=0.25, words=[said])
    body = wire.encode(whole)
    assert len(body.encode()) < wire.MOST_BYTES / wire.MOST_WORDS - 50
    heard = wire.decode(body.encode())
    assert heard == whole
    assert isinstance(heard, wire.Words)
    word = heard.words[0].word(here)
    assert (word.state, word.headroom, word.figures, word.beat_ns) == (state, headroom, figures, here)
    assert reason.startswith(word.reason)
    assert here - word.since_ns == pytest.approx(held_ns, abs=1000)
    if left_ns is None:
        assert word.until_ns is None
    else:
        assert word.until_ns is not None
        assert word.until_ns - here == pytest.approx(left_ns, abs=1000)


def test_what_is_no_number_or_no_text_does_not_keep_a_word_from_being_said() -> None:
    figures = Figures(-1, float("nan"), float("inf"), -1.0, None)
    said = wire.say("embed", "g.1", 5, "g", "", Word("hold", 0.0, "\ud800", 0, 9 * S, None, figures), now_ns=S)
    assert said.figures == wire.SaidFigures()
    assert (said.since_ago_s, said.reason) == (0.0, "?")


@pytest.mark.parametrize(
    "body",
    [
        "", "3", "[]", "{}", "null", '{"kind": "words"}', "\ufeff{}", "NaN",
        text(v=2), text(v="1"), text(kind="other"), text(store="../x"), text(host="x"), text(host_name="a b"),
        text(seq=-1), text(seq=1.5), text(seq=2**63), text(beat_s=0.0), text(beat_s=1e9), text(words=[None]),
        text(words={}), text(words=[{}] * 17), text(word_pool="../../etc"), text(word_pool=""), text(word_source="a~b"),
        text(word_device="a/b"), text(word_state="open"), text(word_headroom=1.5), text(word_headroom="1"),
        text(word_headroom=float("nan")), text(word_since_ago_s=-1.0), text(word_since_ago_s=float("inf")),
        text(word_ends_in_s="soon"), text(word_reason="x" * 513), text(word_reason=None), text(word_opened=True),
        text(more="x" * wire.MOST_BYTES),
    ],
)  # fmt: skip
def test_what_is_not_whole_and_sound_is_refused(body: str) -> None:
    with pytest.raises(ValueError, match=r".+") as refused:
        wire.decode(body)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


@given(st.binary(max_size=300))
def test_no_bytes_whatever_do_more_than_be_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        wire.decode(body)


def test_what_a_later_version_adds_is_overlooked() -> None:
    assert wire.decode(text(colour="red", word_colour="red")) == wire.decode(text())
