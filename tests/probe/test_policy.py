"""When to hold for load and when to let go: properties, by a driven clock."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdshort.workers.probe.policy import CALM_S, LOW, WINDOW_S, Hysteresis

THRESHOLDS = st.floats(0.05, 1.0)
STEPS = st.lists(st.tuples(st.floats(0.01, 1.5), st.floats(0.0, 1.0)), max_size=80)
"""(seconds since the last one, share)"""


def holds(threshold: float, steps: list[tuple[float, float]]) -> list[tuple[float, bool]]:
    """(time, whether it holds) after each step."""
    policy, now, found = Hysteresis(threshold, now=0.0), 0.0, []
    for seconds, share in steps:
        now += seconds
        found.append((now, policy.tell(share, now)))
    return found


def changes(found: list[tuple[float, bool]], to: bool) -> list[float]:
    before = [False, *(held for _, held in found)]
    return [now for (now, held), was in zip(found, before, strict=False) if held == to and was != to]


@given(THRESHOLDS, STEPS)
def test_it_never_raises_again_within_the_calm_time(threshold: float, steps: list[tuple[float, float]]) -> None:
    raised = changes(holds(threshold, steps), to=True)
    assert all(later - earlier >= CALM_S for earlier, later in itertools.pairwise(raised))


@given(THRESHOLDS, STEPS, st.floats(0.0, 1.0), st.integers(2, 40))
def test_a_share_at_the_threshold_raises_within_the_window_whatever_was_before(
    threshold: float, steps: list[tuple[float, float]], more: float, samples: int
) -> None:
    share = threshold + more * (1.0 - threshold)
    step = WINDOW_S / samples * (1 + 1e-9)
    found = holds(threshold, [*steps, *[(step, share)] * samples])
    assert found[-1][1]


@given(THRESHOLDS, STEPS)
def test_calm_lowers_after_the_window_and_the_calm_time(threshold: float, steps: list[tuple[float, float]]) -> None:
    quiet = [(0.1, LOW * threshold * 0.99)] * round((WINDOW_S + CALM_S) / 0.1 + 2)
    assert not holds(threshold, [*steps, *quiet])[-1][1]


@given(THRESHOLDS, STEPS)
def test_it_lowers_only_after_the_calm_time(threshold: float, steps: list[tuple[float, float]]) -> None:
    found = holds(threshold, steps)
    for raised, lowered in zip(changes(found, to=True), changes(found, to=False), strict=False):
        assert lowered - raised >= CALM_S


@given(THRESHOLDS, STEPS, st.data())
def test_more_load_never_holds_less(threshold: float, steps: list[tuple[float, float]], data: st.DataObject) -> None:
    more = [(seconds, data.draw(st.floats(share, 1.0))) for seconds, share in steps]
    for (_, less_held), (_, more_held) in zip(holds(threshold, steps), holds(threshold, more), strict=True):
        assert more_held or not less_held


@given(THRESHOLDS, THRESHOLDS, STEPS)
def test_a_higher_threshold_never_holds_more(one: float, other: float, steps: list[tuple[float, float]]) -> None:
    low, high = sorted((one, other))
    for (_, low_held), (_, high_held) in zip(holds(low, steps), holds(high, steps), strict=True):
        assert low_held or not high_held


def test_a_short_burst_among_calm_does_not_raise() -> None:
    calm = [(0.1, 0.0)] * 10
    assert not any(held for _, held in holds(0.5, [*calm, (0.1, 1.0), *calm]))


def test_load_between_the_two_marks_keeps_what_was_decided() -> None:
    between = [(0.1, 0.45)] * 100
    assert not any(held for _, held in holds(0.5, between))
    assert all(held for _, held in holds(0.5, [(0.5, 1.0), *between]))


@pytest.mark.parametrize("seconds", [0.02, 0.1, 0.5, 5.0])
def test_a_jump_to_full_load_raises_in_half_a_window_or_at_the_first_sample(seconds: float) -> None:
    quiet, busy = [(seconds, 0.0)] * 30, [(seconds, 1.0)] * 30
    raised = changes(holds(0.5, [*quiet, *busy]), to=True)[0] - 30 * seconds
    assert raised <= max(seconds, WINDOW_S / 2 + seconds) + 1e-6


def test_a_clock_that_stands_still_changes_nothing() -> None:
    policy = Hysteresis(0.5, now=10.0)
    assert not policy.tell(1.0, 10.0)
    assert policy.tell(1.0, 10.1)
    assert policy.level == 1.0
