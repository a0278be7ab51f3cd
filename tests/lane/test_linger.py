"""How long the lane stays raised after the last byte: learnt from what came back, and what did not."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdshort.workers.lane.linger import Linger

PREEMPTION_S = 0.05
MOST_S = 0.25


def cost_s(gap_s: float, wait_s: float, preemption_s: float = PREEMPTION_S) -> float:
    """What batch work loses by a gap: the wait, or a wait in vain and the preemption after it."""
    return gap_s if gap_s <= wait_s else wait_s + preemption_s


@given(st.lists(st.floats(0.0001, 40.0), max_size=60), st.floats(0.0, 3.0))
def test_it_never_exceeds_its_limit_and_is_nothing_without_evidence(gaps: list[float], most_s: float) -> None:
    linger = Linger(most_s=most_s)
    assert linger.wait_s == 0.0
    now = 0.0
    for count, gap in enumerate(gaps):
        linger.ended("c", now)
        now += gap
        linger.began("c", now)
        assert 0.0 <= linger.wait_s <= most_s
        if count < 2:
            assert linger.wait_s == 0.0


@pytest.mark.parametrize(("gap", "most"), [(0.004, 0.01), (0.03, 0.05), (1.5, 0.0), (20.0, 0.0)])
def test_it_waits_for_short_gaps_and_not_for_long_ones(gap: float, most: float) -> None:
    linger = Linger(most_s=MOST_S)
    now = 0.0
    for _ in range(50):
        linger.ended("c", now)
        now += gap
        linger.began("c", now)
    assert linger.wait_s <= most
    assert (linger.wait_s >= gap) == (most > 0.0)


def test_it_may_wait_as_long_as_its_limit_whatever_that_is() -> None:
    linger = Linger(most_s=0.2, preemption_s=1.0)
    now = 0.0
    for _ in range(10):
        linger.ended("c", now)
        now += 0.18
        linger.began("c", now)
    assert linger.wait_s == 0.2


@given(st.lists(st.floats(0.001, 1.0), min_size=30, max_size=60), st.floats(0.01, 0.2))
def test_what_it_chooses_costs_no_more_than_never_or_always(gaps: list[float], preemption_s: float) -> None:
    linger = Linger(most_s=MOST_S, preemption_s=preemption_s)
    now = 0.0
    for gap in gaps:
        linger.ended("c", now)
        now += gap
        linger.began("c", now)

    def cost(wait_s: float) -> float:
        # Old gaps fade, so the latest ones weigh most.
        weights = [0.98 ** (len(gaps) - 1 - place) for place in range(len(gaps))]
        return sum(weight * cost_s(gap, wait_s, preemption_s) for weight, gap in zip(weights, gaps, strict=True))

    assert cost(linger.wait_s) <= min(cost(0.0), cost(MOST_S)) + 1e-6


def test_it_forgets_what_is_no_longer_so() -> None:
    linger = Linger(most_s=MOST_S)
    now = 0.0
    for gap, waits in [(0.004, True), (2.0, False), (0.004, True)]:
        for _ in range(150):
            linger.ended("c", now)
            now += gap
            linger.began("c", now)
        assert (linger.wait_s > 0.0) == waits


def test_strangers_teach_nothing() -> None:
    linger = Linger(most_s=MOST_S)
    for number in range(50):
        linger.ended("c", float(number))
        linger.began(f"other{number}", number + 0.01)
    assert linger.wait_s == 0.0


GAPS: dict[str, Callable[[random.Random], float]] = {
    "all short": lambda rng: rng.uniform(0.001, 0.02),
    "all long": lambda rng: rng.uniform(1.0, 20.0),
    "exponential, 30 ms": lambda rng: rng.expovariate(1 / 0.03),
    "exponential, 300 ms": lambda rng: rng.expovariate(1 / 0.3),
    "agents and people": lambda rng: rng.uniform(0.005, 0.03) if rng.random() < 0.6 else rng.uniform(2.0, 30.0),
    "agents now and then": lambda rng: rng.uniform(0.005, 0.03) if rng.random() < 0.1 else rng.uniform(2.0, 30.0),
    "near the break-even": lambda rng: rng.uniform(0.03, 0.07),
}


@pytest.mark.parametrize("kind", GAPS)
@pytest.mark.parametrize("seed", range(3))
def test_over_time_it_costs_hardly_more_than_the_better_of_never_and_always(kind: str, seed: int) -> None:
    rng = random.Random(seed)
    gaps = [GAPS[kind](rng) for _ in range(3000)]
    linger = Linger(most_s=MOST_S, preemption_s=PREEMPTION_S)
    now = paid = 0.0
    for gap in gaps:
        linger.ended("c", now)
        paid += cost_s(gap, linger.wait_s)
        now += gap
        linger.began("c", now)
    never = sum(cost_s(gap, 0.0) for gap in gaps)
    always = sum(cost_s(gap, MOST_S) for gap in gaps)
    assert paid <= 1.05 * min(never, always) + 20 * PREEMPTION_S


def test_conversations_that_never_come_back_are_not_waited_for() -> None:
    """One in twenty is an agent that does come back soon: too few to wait for each."""
    linger = Linger(most_s=MOST_S, forget_s=5.0)
    waited = now = 0.0
    for number in range(4000):
        linger.ended(f"once {number}", now)
        waited += linger.wait_s
        now += 0.1
        if number % 20 == 0:
            linger.ended("agent", now)
            linger.began("agent", now + 0.01)
    assert waited <= 0.05 * 4000 * PREEMPTION_S
    assert linger.wait_s == 0.0


def test_more_conversations_than_it_can_remember_count_as_over() -> None:
    linger = Linger(most_s=MOST_S, forget_s=3600.0)
    for number in range(10_000):
        linger.ended(f"once {number}", number * 0.001)
        if number % 20 == 0:
            linger.ended("agent", number * 0.001)
            linger.began("agent", number * 0.001 + 0.01)
    assert linger.wait_s == 0.0
