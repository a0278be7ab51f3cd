"""How many requests at once pay: found by trying, halved when the store says that it is too much."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holdshort.storage.reading.pace import Pace


def run(pace: Pace, *, saturates_at: int, seconds: float, per_request_s: float = 0.1) -> None:
    """A store whose goodput grows with the requests under way, up to so many; somebody always waits."""
    now = 0.0
    while now < seconds:
        useful = min(pace.limit, saturates_at)
        now += per_request_s / useful
        pace.ended(1000, now, in_flight=pace.limit - 1, waiting=10)


def test_the_limit_grows_while_that_brings_more_and_returns_when_it_does_not() -> None:
    pace = Pace(512)
    run(pace, saturates_at=200, seconds=60.0)
    assert 150 <= pace.limit <= 300
    small = Pace(512)
    run(small, saturates_at=8, seconds=4.0)
    assert small.limit == 64


def test_it_never_exceeds_what_is_allowed() -> None:
    pace = Pace(40)
    run(pace, saturates_at=1000, seconds=60.0)
    assert pace.limit == 40
    assert Pace(3).limit == 3


def test_a_store_that_refuses_is_asked_half_as_often_for_a_while() -> None:
    pace = Pace(64)
    pace.refused(0.0)
    assert pace.limit == 32
    run(pace, saturates_at=1000, seconds=4.0)
    assert pace.limit == 32
    for _ in range(9):
        pace.refused(4.0)
    assert pace.limit == 1


happenings = st.tuples(st.integers(0, 10**8), st.floats(0.0, 10.0), st.integers(0, 99), st.integers(0, 99))


@given(st.lists(happenings, max_size=200))
def test_whatever_happens_something_may_run(events: list[tuple[int, float, int, int]]) -> None:
    pace, now = Pace(64), 0.0
    for got, passed, in_flight, waiting in events:
        now += passed
        pace.ended(got, now, in_flight=in_flight, waiting=waiting)
        if got % 7 == 0:
            pace.refused(now)
        assert 1 <= pace.limit <= 64
