"""What is chosen from what was seen costs hardly more than the best profile would have, had it been known before.

Costs are those of the model in support/simulating.py; benchmarks/auto.py holds them against reality.
"""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdshort.profiles import BUILT_IN
from holdshort.profiles.access import KIB, MIB
from holdshort.profiles.pattern import Event
from support.simulating import Cost, World, cost
from support.traces import TRACES

MOST = 0.10


LINES = {"0.1 GB/s": 0.1e9, "1 GB/s": 1e9, "3 GB/s": 3e9}


@cache
def _of(name: str, profile: str, line: float) -> Cost:
    return cost(TRACES[name](), profile, World(line=line))


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
@pytest.mark.parametrize("name", TRACES)
def test_auto_costs_hardly_more_than_the_best_of_the_profiles(name: str, line: float) -> None:
    best_s = min(_of(name, profile, line).total_s for profile in BUILT_IN)
    auto = _of(name, "auto", line)
    assert auto.total_s <= best_s * (1 + MOST) + 0.001, "\n".join(auto.switches)


def test_the_worst_of_the_profiles_would_cost_far_more() -> None:
    """Or there would be nothing to choose."""
    worse = 0
    for name in TRACES:
        costs = [_of(name, profile, LINES["1 GB/s"]).total_s for profile in BUILT_IN]
        worse += max(costs) > 1.3 * min(costs) > 0
    assert worse >= 10


# -- the model -------------------------------------------------------------------------------------------------

WORLD = World()


def _reads(*spans: tuple[int, int], size: int = 256 * MIB) -> list[Event]:
    return [Event(0.0, "open", "d/x", size)] + [
        Event(0.0, "read", "d/x", size, start, length) for start, length in spans
    ]


def test_the_model_lets_one_small_read_wait_for_one_first_byte() -> None:
    opened = cost(_reads(), "checkpoint").waited_s
    one = cost(_reads((100 * MIB, 64 * KIB)), "checkpoint").waited_s
    assert opened == pytest.approx(WORLD.first_byte_s + 256 * KIB / WORLD.per_connection, abs=0.001)
    assert one - opened == pytest.approx(WORLD.first_byte_s + 64 * KIB / WORLD.per_connection, abs=0.001)


def test_the_model_reads_in_order_at_nearly_the_speed_of_the_line() -> None:
    told = cost(_reads(*((at, MIB) for at in range(0, 256 * MIB, MIB))), "checkpoint")
    assert 256 * MIB / WORLD.line < told.waited_s < 2.5 * 256 * MIB / WORLD.line
    assert told.wanted_bytes == 256 * MIB
    assert told.fetched_bytes == pytest.approx(told.wanted_bytes, rel=1e-6)


def test_the_model_fetches_each_byte_once_for_all_processes_that_share_a_cache() -> None:
    trace = TRACES["one_file_by_all_ranks"]()
    shared, alone = cost(trace, "training"), cost(trace, "checkpoint")
    assert shared.fetched_bytes <= 1.05 * shared.wanted_bytes
    assert alone.fetched_bytes >= 3.9 * alone.wanted_bytes


reads = st.lists(st.tuples(st.integers(0, 64 * MIB - 1), st.integers(1, 4 * MIB)), min_size=1, max_size=30)


@settings(deadline=None, max_examples=40)
@given(reads, st.sampled_from([*BUILT_IN, "auto"]))
def test_the_model_ends_and_fetches_what_was_asked_for(spans: list[tuple[int, int]], profile: str) -> None:
    told = cost(_reads(*spans, size=64 * MIB), profile)
    assert told.waited_s >= WORLD.first_byte_s
    if profile in ("checkpoint", "plain"):
        assert told.fetched_bytes <= 64 * MIB * len(spans) + 256 * KIB
