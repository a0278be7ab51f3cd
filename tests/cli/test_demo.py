"""The demo's figures are computed right."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdshort.cli.demo.figures import Phase, busy_s, documents_between, figures, harvest, quantile
from holdshort.cli.demo.show import Shown
from holdshort.cli.demo.timeline import timeline
from holdshort.cli.demo.traffic import Answered, bursts


def test_the_schedule_is_the_same_for_the_same_seed_and_has_its_gaps() -> None:
    one = bursts(7, seconds=60, answer_s=0.5, burst=4, idle_s=3.0, tokens=32)
    assert one == bursts(7, seconds=60, answer_s=0.5, burst=4, idle_s=3.0, tokens=32)
    assert one != bursts(8, seconds=60, answer_s=0.5, burst=4, idle_s=3.0, tokens=32)
    gaps = [later.at_s - earlier.at_s for earlier, later in pairwise(one)]
    assert min(gaps) >= 0.5
    assert sum(gap > 1.5 for gap in gaps) == (len(one) - 1) // 4
    assert one[-1].at_s + 0.5 <= 60
    assert len({ask.prompt for ask in one}) == len(one), "each prompt is unlike the others"


def test_latency_counts_from_the_schedule_and_gaps_from_token_to_token() -> None:
    answers = [Answered(10.0, [10.2, 10.21, 10.24]), Answered(11.0, [], "status 502")]
    found = figures(Phase("alone", 10.0, 12.0, answers, documents=30))
    assert found.requests == 2
    assert found.failed == 1
    assert found.first_p50_s == pytest.approx(0.2)
    assert found.token_p95_s == pytest.approx(0.03)
    assert found.documents_per_s == 15.0
    assert figures(Phase("alone", 0.0, 1.0, [])).first_p50_s is None


@given(st.lists(st.tuples(st.floats(0, 90), st.floats(0.01, 20)), max_size=30))
def test_busy_time_is_the_union_of_the_requests(spans: list[tuple[float, float]]) -> None:
    answers = [Answered(begin, [begin + length]) for begin, length in spans]
    steps = 5000
    covered = sum(any(b <= (t + 0.5) * 100 / steps < b + n for b, n in spans) for t in range(steps)) * 100 / steps
    assert busy_s(answers, 0.0, 100.0) == pytest.approx(covered, abs=0.03 * (len(spans) + 1))


def test_harvest_compares_with_what_the_chat_leaves() -> None:
    assert harvest(150, alone_per_s=30.0, idle_s=10.0) == 0.5
    assert harvest(0, alone_per_s=0.0, idle_s=10.0) is None
    trace = [{"event": "finished", "at": at, "rows": 2} for at in (0.9, 1.0, 1.9, 2.0)] + [{"event": "ran", "at": 1.5}]
    assert documents_between(trace, 1.0, 2.0) == 4
    assert quantile([], 0.5) is None


def test_the_picture_puts_phases_side_by_side_on_one_axis() -> None:
    shown = Shown(killed=1, killed_at=205.0)
    shown.phases = [
        Phase("alone", 100.0, 110.0, [Answered(101.0, [101.2, 101.21])]),
        Phase("holdshort", 200.0, 210.0, [Answered(201.0, [201.5, 201.52])]),
    ]
    shown.trace = [
        {"event": "ran", "at": 202.0, "seconds": 0.5},
        {"event": "lost", "at": 203.0, "seconds": 0.1},
        {"event": "waited", "at": 204.0, "seconds": 1.0},
        {"event": "ran", "at": 150.0, "seconds": 0.5},
    ]
    line = timeline(shown)
    alone, protected = line.strips
    assert (alone.start, alone.end) == (0.0, 10.0)
    assert alone.firsts == [(1.2, 0.2)]
    assert (protected.start, line.killed) == (12.0, 17.0)
    assert protected.gaps == [(13.52, 0.02)]
    assert protected.batches == [(13.5, 0.5)]
    assert protected.lost == [(14.9, 0.1)]
    assert protected.holds == [(15.0, 16.0)]
    assert alone.batches == []
