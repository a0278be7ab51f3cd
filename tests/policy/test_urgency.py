"""Who goes first: never below the class, rising with waiting and with a deadline that comes near."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdshort.jobs.policy.urgency import AGE_CEILING, AGE_STEP_S, HIGHEST, priority_now, urgency
from holdshort.jobs.spec import PRIORITY_CLASSES
from support.jobs import make_record

BASES = st.integers(0, HIGHEST)
TIMES = st.floats(0, 4e9, allow_nan=False)
SPANS = st.floats(0, 1e6, allow_nan=False)


def _urgency(base: int, *, waited: float = 0.0, left: float | None = None, now: float = 1e9) -> int:
    """Of a stripe that waits for so long, of a job with a share `left` of the time to its deadline."""
    accepted_at = now - 1000.0
    deadline_at = None if left is None else accepted_at + 1000.0 / (1.0 - left)
    return urgency(base, now=now, waiting_since=now - waited, accepted_at=accepted_at, deadline_at=deadline_at)


@given(BASES, TIMES, TIMES, TIMES, st.none() | TIMES)
def test_it_is_from_0_to_9_and_never_below_the_class(
    base: int, now: float, waiting_since: float, accepted_at: float, deadline_at: float | None
) -> None:
    found = urgency(base, now=now, waiting_since=waiting_since, accepted_at=accepted_at, deadline_at=deadline_at)
    assert base <= found <= HIGHEST


@given(BASES, SPANS, SPANS, st.none() | st.floats(0, 0.99))
def test_it_never_falls_by_waiting(base: int, waited: float, longer: float, left: float | None) -> None:
    assert _urgency(base, waited=waited, left=left) <= _urgency(base, waited=waited + longer, left=left)


@given(BASES, SPANS, SPANS, SPANS, SPANS)
def test_it_never_falls_as_the_deadline_comes_near_and_passes(
    base: int, accepted_at: float, whole: float, waited: float, more: float
) -> None:
    def at(now: float) -> int:
        # What waits is worked on again and again: only the deadline counts here.
        return urgency(base, now=now, waiting_since=now, accepted_at=accepted_at, deadline_at=accepted_at + whole)

    assert at(accepted_at + waited) <= at(accepted_at + waited + more)


@given(BASES, SPANS)
def test_an_earlier_deadline_is_never_less_urgent(base: int, waited: float) -> None:
    levels = [_urgency(base, waited=waited, left=left) for left in (0.0, 0.04, 0.1, 0.3, 0.6, 0.9)]
    assert levels == sorted(levels, reverse=True)


@given(BASES, st.floats(0, 1e12))
def test_age_alone_never_reaches_the_top(base: int, waited: float) -> None:
    assert _urgency(base, waited=waited) <= max(base, AGE_CEILING)


@pytest.mark.parametrize("base", PRIORITY_CLASSES.values())
def test_each_step_of_waiting_raises_by_one(base: int) -> None:
    for steps in range(10):
        expected = min(base + steps, AGE_CEILING)
        assert _urgency(base, waited=steps * AGE_STEP_S) == expected
        assert _urgency(base, waited=(steps + 1) * AGE_STEP_S - 1) == expected


def test_bulk_that_waits_overtakes_fresh_urgent_work_within_a_bound() -> None:
    bulk, urgent = PRIORITY_CLASSES["bulk"], PRIORITY_CLASSES["urgent"]
    bound_s = (urgent - bulk + 1) * AGE_STEP_S
    assert _urgency(bulk, waited=bound_s - AGE_STEP_S - 1) < _urgency(urgent)
    assert _urgency(bulk, waited=bound_s) > _urgency(urgent)


@given(st.integers(0, AGE_CEILING - 1))
def test_nothing_below_the_ceiling_starves_behind_fresh_work_below_it(base: int) -> None:
    bound_s = (AGE_CEILING - base) * AGE_STEP_S
    assert all(_urgency(base, waited=bound_s) > _urgency(other) for other in range(AGE_CEILING))


def test_a_near_deadline_reaches_the_top_and_stays_there_when_it_has_passed() -> None:
    assert _urgency(PRIORITY_CLASSES["urgent"], left=0.04) == HIGHEST
    assert _urgency(PRIORITY_CLASSES["urgent"], left=-1.0) == HIGHEST
    assert _urgency(PRIORITY_CLASSES["bulk"], left=0.04) == PRIORITY_CLASSES["bulk"] + 3
    assert _urgency(PRIORITY_CLASSES["bulk"], left=0.9) == PRIORITY_CLASSES["bulk"]


def test_a_clock_that_was_set_back_takes_nothing_away() -> None:
    assert _urgency(4, waited=-1e6) == 4


def test_a_record_is_as_urgent_as_its_class_and_times_say() -> None:
    record = make_record([1], accepted_at=100.0)
    assert priority_now(record, now=100.0, waiting_since=100.0) == record.priority
    assert priority_now(record, now=100.0 + 2 * AGE_STEP_S, waiting_since=100.0) == record.priority + 2
