"""Micro-batches: as large as fits, and never over the bound for long."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdshort.workers.batching import BatchBudget, take_batch

COSTS: dict[str, Callable[[Sequence[int]], int]] = {
    "sum": sum,
    "padded to the longest": lambda units: max(units) * len(units),
    "count": len,
    "quadratic": lambda units: sum(units) ** 2,
}


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=80),
    st.integers(0, 79),
    st.integers(0, 2000),
    st.integers(1, 90),
    st.sampled_from(list(COSTS)),
)
def test_a_batch_is_the_longest_run_of_units_that_fits(
    units: list[int], start: int, budget: int, most: int, name: str
) -> None:
    start %= len(units)
    cost = COSTS[name]
    limit = min(len(units) - start, most)
    fits = [size for size in range(1, limit + 1) if cost(units[start : start + size]) <= budget]
    assert take_batch(units, start, budget=budget, cost=cost, most=most) == max(fits, default=1)


def test_finding_a_batch_asks_for_few_costs() -> None:
    asked = 0

    def cost(units: Sequence[int]) -> int:
        nonlocal asked
        asked += 1
        return len(units)

    assert take_batch([1] * 5000, 0, budget=3000, cost=cost) == 3000
    assert asked <= 30


BOUND_S = 0.05


def _run(budget: BatchBudget, seconds: Callable[[int], float], batches: int, unit: int = 1) -> list[tuple[int, float]]:
    """Run micro-batches of units of this cost, as large as the budget allows; cost and time of each."""
    done: list[tuple[int, float]] = []
    for _ in range(batches):
        cost = max(1, budget.cost // unit) * unit
        took = seconds(cost)
        budget.observe(cost, took)
        done.append((cost, took))
    return done


@given(
    st.integers(0, 2**32),
    st.floats(0, 0.02),
    st.floats(1e-7, 5e-3),
    st.floats(0, 0.15),
    st.integers(1, 40),
)
def test_it_comes_to_use_the_bound_well_without_passing_it(
    seed: int, fixed_s: float, per_cost_s: float, noise: float, unit: int
) -> None:
    rng = random.Random(seed)

    def seconds(cost: int) -> float:
        return (fixed_s + per_cost_s * cost) * rng.uniform(1 - noise, 1 + noise)

    budget = BatchBudget(BOUND_S)
    done = _run(budget, seconds, 2500, unit)[-200:]
    if fixed_s + 2 * unit * per_cost_s > BOUND_S / 3:
        return  # there is little to choose: a single unit takes about as long as the bound
    assert max(took for _, took in done) <= BOUND_S
    assert sum(took for _, took in done) / len(done) >= BOUND_S * 0.3


@given(st.integers(0, 2**32))
def test_it_is_never_below_one_and_at_most_doubles(seed: int) -> None:
    rng = random.Random(seed)
    budget = BatchBudget(BOUND_S)
    for _ in range(300):
        before = budget.cost
        cost = rng.choice([0, 1, before, before, rng.randint(1, 2 * before)])
        budget.observe(cost, rng.choice([0.0, 1e-6, 0.01, 0.04, 10.0]))
        assert 1 <= budget.cost <= 2 * (max(before, cost) + 1)


def test_it_starts_with_a_single_unit_and_doubles_while_there_is_room() -> None:
    budget = BatchBudget(BOUND_S)
    assert budget.cost == 1
    assert [cost for cost, _ in _run(budget, lambda cost: 1e-6 * cost, 8)] == [1, 2, 4, 8, 16, 32, 64, 128]


@pytest.mark.parametrize("slower", [3.0, 10.0])
def test_it_shrinks_at_once_when_batches_take_longer_and_recovers(slower: float) -> None:
    budget = BatchBudget(BOUND_S)
    _run(budget, lambda cost: 1e-4 * cost, 200)
    settled = budget.cost
    for _ in range(4):  # more than one in twenty, which is what it allows for
        budget.observe(budget.cost, 1e-4 * slower * settled)
    assert budget.cost <= settled / slower * 1.5
    _run(budget, lambda cost: 1e-4 * slower * cost, 100)
    assert 1e-4 * slower * budget.cost <= BOUND_S
    _run(budget, lambda cost: 1e-4 * cost, 200)
    assert budget.cost >= settled * 0.9


def test_much_smaller_batches_teach_nothing_unless_they_are_too_slow() -> None:
    budget = BatchBudget(BOUND_S)
    _run(budget, lambda cost: 1e-4 * cost, 200)
    settled = budget.cost
    for _ in range(200):
        budget.observe(1, 0.001)  # ten times its share: the fixed part of any batch
    assert budget.cost == settled
    for _ in range(10):
        budget.observe(1, BOUND_S * 2)
    assert budget.cost == 1
