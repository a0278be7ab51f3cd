"""Which of several controllers leads."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdshort.jobs.controller.lease import Lease
from holdshort.jobs.ledger import layout
from holdshort.storage.local import LocalStore

TTL_S = 10.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Group:
    """Controllers on one store, with one clock."""

    def __init__(self, folder: Path, size: int) -> None:
        self.clock = Clock()
        self.store = LocalStore(folder)
        self.leases = [Lease(self.store, f"c{n}", ttl_s=TTL_S, clock=self.clock) for n in range(size)]

    def leaders(self, *, silent: frozenset[int] = frozenset()) -> list[int]:
        """Who leads when all but the silent ones look."""
        return [number for number, lease in enumerate(self.leases) if number not in silent and lease.held()]


@pytest.fixture
def group(tmp_path: Path) -> Group:
    return Group(tmp_path, 3)


def test_one_leads_and_goes_on_leading(group: Group) -> None:
    for _ in range(200):
        assert group.leaders() == [0]
        group.clock.now += 0.5
    assert [lease.leads for lease in group.leases] == [True, False, False]
    assert len(group.store.list(layout.leases())) <= 2


def test_another_takes_over_once_the_lease_has_run_out_and_not_before(group: Group) -> None:
    assert group.leaders() == [0]
    dead = frozenset({0})
    group.clock.now += TTL_S - 0.1
    assert group.leaders(silent=dead) == []
    group.clock.now += 0.2
    assert group.leaders(silent=dead) == [1]
    # The first one was only asleep: it sees that another leads.
    assert group.leaders() == [1]
    assert not group.leases[0].leads


def test_a_lease_that_is_released_is_taken_at_once(group: Group) -> None:
    assert group.leaders() == [0]
    group.leases[0].release()
    assert not group.leases[0].leads
    assert group.leaders(silent=frozenset({0})) == [1]
    assert group.leaders() == [1]


def test_releasing_without_leading_takes_nothing_from_the_leader(group: Group) -> None:
    assert group.leaders() == [0]
    group.leases[1].release()
    assert group.leaders() == [0]


@pytest.mark.parametrize("jump_s", [-1e6, -3600.0, -25.0, -12.0, -4.0, 4.0, 12.0, 25.0, 3600.0, 1e6])
def test_a_clock_that_jumps_costs_at_most_a_change_of_leader(group: Group, jump_s: float) -> None:
    assert group.leaders() == [0]
    group.clock.now += jump_s
    for _ in range(20):
        assert len(group.leaders()) <= 1
        group.clock.now += 0.5
    assert len(group.leaders()) == 1


@pytest.mark.parametrize("jump_s", [-1e6, -3600.0, -25.0, -12.0, 3600.0])
def test_a_leader_that_dies_is_replaced_even_when_the_clock_jumped(group: Group, jump_s: float) -> None:
    assert group.leaders() == [0]
    group.clock.now += jump_s
    seen: list[int] = []
    for _ in range(80):
        seen += group.leaders(silent=frozenset({0}))
        group.clock.now += 0.5
    assert set(seen) == {1}


def test_a_store_that_was_emptied_does_not_stop_the_leader(group: Group) -> None:
    for _ in range(30):
        assert group.leaders() == [0]
        group.clock.now += 1.0
    group.store.delete_folder(layout.leases())
    group.clock.now += TTL_S / 2
    assert group.leaders() == [0]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.3, 2.0, 5.0, 11.0]), st.booleans()), max_size=60))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_with_one_clock_there_is_never_more_than_one(
    tmp_path_factory: pytest.TempPathFactory, looks: list[tuple[int, float, bool]]
) -> None:
    group = Group(tmp_path_factory.mktemp("lease"), 4)
    led_until: dict[int, float] = {}
    for number, passes_s, releases in looks:
        group.clock.now += passes_s
        if group.leases[number].held():
            others = [other for other, until in led_until.items() if other != number and until > group.clock.now]
            assert not others
            # Without asking again, whoever leads may believe so for half a lease.
            led_until[number] = group.clock.now + TTL_S / 2
            if releases:
                group.leases[number].release()
                del led_until[number]
        else:
            led_until.pop(number, None)
