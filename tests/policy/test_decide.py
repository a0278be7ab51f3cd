"""What a worker does next: it advances only if nothing speaks against it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdshort.workers.decide import ADVANCE, Situation, next_step
from holdshort.workers.lane.control import Permit

HELD = Permit(False, "lane", "gateway holds: p99 is 180 ms of 150", since=100.0)
GO = Permit(True)
RATIONED = Permit(False, "duty", "gateway leaves batch work 30% of the time", until=300.0)
QUIET = Situation(now=101.0, permit=GO, quantum_ends=130.0, park_after_s=2.0)

ENDS = ["taken_over", "cancelled", "expired"]
PARKS = ["stopping", "paused"]

SITUATIONS = st.builds(
    Situation,
    now=st.floats(0, 200),
    permit=st.sampled_from([GO, HELD, RATIONED]),
    quantum_ends=st.floats(0, 200),
    park_after_s=st.floats(0, 50),
    stopping=st.booleans(),
    cancelled=st.booleans(),
    expired=st.booleans(),
    paused=st.booleans(),
    taken_over=st.booleans(),
)


@given(SITUATIONS)
def test_it_advances_if_and_only_if_nothing_speaks_against_it(at: Situation) -> None:
    against = any(getattr(at, name) for name in ENDS + PARKS) or not at.permit.may_run or at.now >= at.quantum_ends
    assert (next_step(at).action == "advance") == (not against)


@given(SITUATIONS)
def test_whatever_is_not_to_advance_says_why(at: Situation) -> None:
    step = next_step(at)
    assert bool(step.why) == bool(step.reason) == (step.action != "advance")


@given(SITUATIONS)
def test_what_ends_the_work_comes_before_what_delays_it(at: Situation) -> None:
    assert (next_step(at).action == "stop") == any(getattr(at, name) for name in ENDS)


@given(SITUATIONS)
def test_waiting_in_place_has_an_end_that_is_still_to_come(at: Situation) -> None:
    step = next_step(at)
    if step.action == "pause":
        assert step.until is not None
        assert at.now < step.until
        if step.why == "lane":
            assert next_step(replace(at, now=step.until)).action == "park"


@given(SITUATIONS)
def test_a_held_lane_is_never_worked_on(at: Situation) -> None:
    assert next_step(replace(at, permit=HELD)).action != "advance"


@pytest.mark.parametrize(
    ("name", "action", "why"),
    [
        ("taken_over", "stop", "taken_over"),
        ("cancelled", "stop", "cancelled"),
        ("expired", "stop", "expired"),
        ("stopping", "park", "shutdown"),
        ("paused", "park", "paused"),
    ],
)
def test_each_reason_beats_those_after_it(name: str, action: str, why: str) -> None:
    order = ENDS + PARKS
    later = dict.fromkeys(order[order.index(name) :], True)
    step = next_step(replace(QUIET, permit=HELD, now=500.0, **later))
    assert (step.action, step.why) == (action, why)


def test_a_short_hold_is_waited_out_and_a_long_one_parks() -> None:
    short = next_step(replace(QUIET, permit=HELD, now=101.9))
    assert (short.action, short.why, short.until) == ("pause", "lane", 102.0)
    assert "gateway" in short.reason
    assert "180 ms" in short.reason
    long = next_step(replace(QUIET, permit=HELD, now=102.0))
    assert (long.action, long.why) == ("park", "lane")


def test_work_that_is_rationed_waits_in_place_but_not_beyond_its_quantum() -> None:
    step = next_step(replace(QUIET, permit=RATIONED))
    assert (step.action, step.why, step.until) == ("pause", "duty", QUIET.quantum_ends)
    assert next_step(replace(QUIET, permit=RATIONED, now=130.0)).why == "quantum"


def test_a_hold_is_told_before_the_end_of_the_quantum() -> None:
    assert next_step(replace(QUIET, permit=HELD, quantum_ends=0.0)).why == "lane"
    assert next_step(replace(QUIET, quantum_ends=QUIET.now)).why == "quantum"
    assert next_step(QUIET) == ADVANCE
