"""Headroom follows how well a promise is kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holdshort.gateway.promise import Promise
from holdshort.workers.lane.reading import NO_FIGURES, Figures

P95 = st.floats(0.0, 1.0)


@given(st.lists(st.tuples(P95, st.floats(0.1, 30.0)), min_size=1, max_size=80))
def test_headroom_is_a_share_that_only_falls_while_the_promise_is_broken(measured: list[tuple[float, float]]) -> None:
    promise = Promise(first_byte_s=0.5, gap_s=None)
    now, before = 0.0, 0.0
    for p95, elapsed in measured:
        now += elapsed
        headroom = promise.headroom(Figures(1, p95 / 2, p95), now)
        assert 0.0 <= headroom <= 0.9
        if p95 > 0.5:
            assert headroom <= before
        elif p95 >= 0.4:
            assert headroom == before
        else:
            assert headroom >= before
            assert headroom - before <= 0.05 + 0.02 * elapsed
        before = headroom


def test_a_promise_that_stays_broken_ends_in_a_hold_soon() -> None:
    promise = Promise(first_byte_s=None, gap_s=0.02)
    for second in range(100):
        promise.headroom(Figures(1, gap_p95_s=0.01), float(second))
    assert promise.headroom(Figures(1, gap_p95_s=0.01), 100.0) == 0.9
    found = [promise.headroom(Figures(1, gap_p95_s=0.03), 100.0 + second) for second in range(1, 12)]
    assert found[0] == 0.45
    assert found[-1] == 0.0


def test_nothing_measured_is_no_headroom() -> None:
    promise = Promise(first_byte_s=0.5, gap_s=0.05)
    assert promise.headroom(NO_FIGURES, 1.0) == 0.0
    assert "none measured" in promise.reason(NO_FIGURES)
    assert promise.headroom(Figures(1, first_byte_p95_s=0.1), 2.0) > 0.0
    assert promise.headroom(NO_FIGURES, 3.0) == 0.0


def test_the_worst_kept_promise_counts_and_is_told() -> None:
    promise = Promise(first_byte_s=0.5, gap_s=0.05)
    figures = Figures(1, first_byte_p95_s=0.1, gap_p95_s=0.06)
    assert promise.headroom(figures, 1.0) == 0.0
    assert promise.reason(figures) == "live requests, gap p95 is 60 ms of the promised 50"
    assert not Promise(first_byte_s=None, gap_s=None).was_made
