"""What a worker makes of its lane, in a simulation: bounds that hold for live traffic, and goodput that is left."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdshort.workers.lane.control import Control, YieldLimits
from holdshort.workers.lane.reading import CLEAR, Reading

LOOK_S, STILL_LOOK_S, OBEY_S = 0.002, 0.005, 0.003
BOUND_S = 0.05


@dataclass
class Wave:
    """A lane over time: from each edge on, a hold (odd) or clear (even)."""

    edges: list[float]

    def at(self, now: float) -> Reading:
        place = bisect_right(self.edges, now)
        if place % 2 == 0:
            return CLEAR
        return Reading("hold", 0.0, "live", "gateway", self.edges[place - 1])

    def hold_at(self, now: float) -> float | None:
        reading = self.at(now)
        return reading.since if reading.signal == "hold" else None


@dataclass
class Ran:
    """What a simulated worker did."""

    busy: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    done: int = 0
    done_s: float = 0.0
    lost_s: float = 0.0
    stands: list[float] = field(default_factory=list[float])


def simulate(
    control: Control,
    lane: Callable[[float], Reading],
    *,
    seconds: float,
    batch_s: float,
    interruptible: bool = True,
) -> Ran:
    """A worker that never runs out of micro-batches of one length, driven as the runner drives it."""
    now, ran = 0.0, Ran()
    while now < seconds:
        preemptions = control.preemptions
        permit = control.permit(lane(now), expected_s=batch_s, now=now)
        if control.preemptions > preemptions:
            ran.stands.append(now)
        if not permit.may_run:
            now = now + STILL_LOOK_S if permit.until is None else max(now, min(permit.until, now + STILL_LOOK_S))
            now += 1e-6
            continue
        started, stop_at, look = now, None, now
        while stop_at is None and (look := look + LOOK_S) < started + batch_s:
            due = control.interrupt_at(lane(look), started=started, expected_s=batch_s, now=look)
            if due is not None and look >= due:
                stop_at = look + OBEY_S
        if stop_at is not None and interruptible and stop_at < started + batch_s:
            now = stop_at
            control.interrupted(now - started)
            ran.lost_s += now - started
        else:
            now = started + batch_s
            control.ran(batch_s)
            ran.done += 1
            ran.done_s += batch_s
        ran.busy.append((started, now))
    return ran


WAVES = st.lists(st.floats(0.0005, 0.4), min_size=2, max_size=60).map(
    lambda spans: Wave([sum(spans[: n + 1]) for n in range(len(spans))])
)


@given(WAVES, st.floats(0.001, 0.2), st.sampled_from([6, 60, 600]))
def test_work_that_can_be_interrupted_stands_within_the_bound_whatever_the_wave(
    wave: Wave, batch_s: float, per_minute: int
) -> None:
    limits = YieldLimits(BOUND_S, preemptions_per_minute=per_minute)
    ran = simulate(Control(limits), wave.at, seconds=wave.edges[-1], batch_s=batch_s)
    for started, ended in ran.busy:
        begin = wave.hold_at(ended - 1e-9)
        if begin is None or (ended - started >= batch_s - 1e-9 and ended - started > BOUND_S):
            continue  # clear again, or the one in eight that may end, or it would never be done
        assert ended - begin <= BOUND_S + LOOK_S + OBEY_S


@given(WAVES, st.floats(0.001, 0.04))
def test_nothing_begins_after_a_hold_but_what_ends_within_the_bound(wave: Wave, batch_s: float) -> None:
    ran = simulate(Control(YieldLimits(BOUND_S)), wave.at, seconds=wave.edges[-1], batch_s=batch_s, interruptible=False)
    for started, ended in ran.busy:
        begin = wave.hold_at(started)
        if begin is not None:
            assert ended - begin <= BOUND_S


@settings(max_examples=25)
@given(st.floats(0.004, 0.5), st.floats(0.1, 0.9), st.sampled_from([6, 30, 120, 600]))
def test_preemptions_in_any_minute_stay_within_the_bound(period: float, duty: float, per_minute: int) -> None:
    wave = _square(period, duty, seconds=100)
    limits = YieldLimits(BOUND_S, preemptions_per_minute=per_minute)
    ran = simulate(Control(limits), wave.at, seconds=100, batch_s=0.01)
    for place, first in enumerate(ran.stands):
        within = bisect_right(ran.stands, first + 60.0) - place
        assert within <= per_minute + 1  # work ran before the first one without a resume


@pytest.mark.parametrize("times", [10.0, 5.0, 2.0, 1.0, 0.5, 0.2])
@pytest.mark.parametrize("batch_s", [0.005, 0.028, 0.045])
def test_goodput_under_a_square_wave_stays_near_what_it_leaves(times: float, batch_s: float) -> None:
    turnaround_s = LOOK_S + OBEY_S + STILL_LOOK_S  # to yield and to go on
    period = times * (turnaround_s + batch_s)
    ran = simulate(Control(YieldLimits(BOUND_S)), _square(period, 0.5, seconds=40).at, seconds=40, batch_s=batch_s)
    assert ran.done_s / 40 >= 0.5 - 0.1


def test_a_micro_batch_longer_than_any_clear_moment_is_done_some_day() -> None:
    ran = simulate(Control(YieldLimits(BOUND_S)), _square(0.4, 0.5, seconds=60).at, seconds=60, batch_s=0.3)
    assert ran.done > 0


def test_a_micro_batch_that_is_nearly_done_is_left_to_end_and_another_is_not() -> None:
    control = Control(YieldLimits(BOUND_S, drain_s=0.005))
    held = Reading("hold", 0.0, "live", "gateway", since=1.0)
    control.permit(CLEAR, expected_s=0.02, now=0.98)
    assert control.interrupt_at(held, started=0.983, expected_s=0.02, now=1.001) not in (None, 1.001)
    assert control.interrupt_at(held, started=0.99, expected_s=0.02, now=1.001) == 1.001


@settings(max_examples=30)
@given(st.floats(0.05, 0.95), st.floats(0.002, 0.05))
def test_headroom_is_a_share_of_every_window(headroom: float, batch_s: float) -> None:
    lane = Reading("clear", headroom, "promise kept", "gateway", 0.0)
    ran = simulate(Control(YieldLimits(BOUND_S)), lambda _: lane, seconds=8.0, batch_s=batch_s)
    share = sum(end - start for start, end in ran.busy) / 8.0
    assert share <= headroom + batch_s / 8.0 + 0.01
    assert share >= headroom - batch_s / 8.0 - 0.1  # looking costs a little: it is done every few milliseconds
    for start, _ in ran.busy:
        in_window = sum(min(e, start + 0.1) - s for s, e in ran.busy if start <= s < start + 0.1)
        assert in_window <= 2 * headroom * 0.1 + batch_s + 1e-6


def test_headroom_waits_in_place_and_says_so() -> None:
    control = Control(YieldLimits(BOUND_S))
    lane = Reading("clear", 0.25, "p95 is 90 ms of 100", "gateway", 0.0)
    control.permit(lane, expected_s=0.01, now=0.0)
    control.ran(0.1)
    permit = control.permit(lane, expected_s=0.01, now=0.1)
    assert (permit.may_run, permit.why) == (False, "duty")
    assert "25%" in permit.reason
    assert permit.until is not None
    assert control.permit(lane, expected_s=0.01, now=permit.until).may_run


def test_micro_batches_are_small_for_a_moment_after_a_hold() -> None:
    control = Control(YieldLimits(BOUND_S))
    assert control.batch_share(0.0) == 1.0
    control.permit(CLEAR, expected_s=0.01, now=1.0)
    control.permit(Reading("hold", 0.0, "live", "gateway", since=1.01), expected_s=0.06, now=1.01)
    assert control.permit(CLEAR, expected_s=0.01, now=2.0).may_run
    shares = [control.batch_share(2.0 + n * 0.02) for n in range(12)]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.25, 1.0)


def test_a_hold_counts_from_when_it_began_not_from_when_it_was_seen() -> None:
    control = Control(YieldLimits(BOUND_S))
    control.permit(CLEAR, expected_s=0.01, now=5.0)
    control.permit(Reading("hold", 0.0, "live", "gateway", since=5.004), expected_s=0.2, now=5.01)
    assert control.hold == (5.004, 5.01)


def _square(period: float, clear_share: float, *, seconds: float) -> Wave:
    edges: list[float] = []
    now = period * clear_share
    while now < seconds + period:
        edges += [now, now + period * (1 - clear_share)]
        now += period
    return Wave(edges)
