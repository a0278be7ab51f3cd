"""Rows that kill their process are found, and nobody else is blamed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdshort.jobs.ledger import Attempt
from holdshort.workers.suspects import group_size, plan


class Died(Exception):
    """The process is gone, with all that it had not saved."""


class Shard:
    """A shard and what its workers leave behind, run as the worker's runner does it."""

    def __init__(self, rows: int, poison: frozenset[int], max_attempts: int) -> None:
        self.rows = rows
        self.max_attempts = max_attempts
        self.saved: set[int] = set()
        self.lost: set[int] = set()
        self.attempts: list[Attempt] = []
        self.deaths: list[frozenset[int]] = []
        self._poison = poison

    def work(self) -> None:
        """Message after message, each delivered again while its worker dies."""
        while True:
            try:
                self._advance()
            except Died:
                continue
            return

    def _advance(self) -> None:
        if self.deaths and not self.attempts:
            self.attempts.append(Attempt(0, self.rows))
        lines = set(self.saved)
        todo = plan(
            [row for row in range(self.rows) if row not in lines],
            self.attempts,
            max_attempts=self.max_attempts,
        )
        self.lost |= set(todo.lost)
        lines |= self.lost
        self._run(todo.free, lines)
        self.saved = set(lines)
        for group in todo.groups:
            self.attempts.append(Attempt(group[0], group[-1] + 1))
            self._run(group, lines)
            self.attempts.pop()
            self.saved = set(lines)
        assert lines == set(range(self.rows))

    def _run(self, rows: list[int], lines: set[int]) -> None:
        if self._poison.intersection(rows):
            self.deaths.append(frozenset(rows))
            assert len(self.deaths) < 1000
            raise Died
        lines |= set(rows)


def _check(rows: int, poison: frozenset[int], max_attempts: int) -> Shard:
    shard = Shard(rows, poison, max_attempts)
    shard.work()
    assert shard.lost == poison
    for row in poison:
        assert sum(row in death for death in shard.deaths) == max_attempts
    assert len(shard.deaths) <= 1 + len(poison) * (max_attempts - 1)
    return shard


@pytest.mark.parametrize("max_attempts", [2, 3, 4, 5, 20])
@pytest.mark.parametrize("rows", [1, 2, 3, 16, 100, 256, 1000])
def test_a_row_that_kills_is_alone_at_its_last_death(rows: int, max_attempts: int) -> None:
    for row in {0, rows // 2, rows - 1}:
        shard = _check(rows, frozenset({row}), max_attempts)
        assert len(shard.deaths) == max_attempts
        assert shard.deaths[-1] == {row}


@given(st.integers(1, 300), st.integers(2, 6), st.data())
def test_of_several_rows_that_kill_each_is_lost_and_no_other(rows: int, max_attempts: int, data: st.DataObject) -> None:
    _check(rows, frozenset(data.draw(st.sets(st.integers(0, rows - 1), max_size=8))), max_attempts)


def test_even_a_shard_of_nothing_but_killers_ends() -> None:
    shard = _check(40, frozenset(range(40)), 3)
    assert len(shard.deaths) <= 1 + 40 * 2


@given(st.integers(1, 400), st.integers(2, 6), st.data())
def test_a_single_death_without_a_culprit_loses_nobody(rows: int, max_attempts: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, rows - 1))
    attempts = [Attempt(first, data.draw(st.integers(first + 1, rows)))]
    found = plan(range(rows), attempts, max_attempts=max_attempts)
    assert found.lost == []
    assert sorted([*found.free, *(row for group in found.groups for row in group)]) == list(range(rows))


@given(
    st.sets(st.integers(0, 60)),
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)), max_size=6),
    st.integers(1, 5),
)
def test_every_row_is_planned_once_whatever_was_noted(
    pending: set[int], noted: list[tuple[int, int]], max_attempts: int
) -> None:
    attempts = [Attempt(first, first + size) for first, size in noted]
    found = plan(sorted(pending), attempts, max_attempts=max_attempts)
    grouped = [row for group in found.groups for row in group]
    assert sorted([*found.free, *grouped, *found.lost]) == sorted(pending)
    assert all(group == sorted(group) and group for group in found.groups)
    for group in found.groups:
        # What is noted for a group involves none but the group among those that are to be run.
        assert [row for row in sorted(pending) if group[0] <= row <= group[-1]] == group
    for row in found.lost:
        assert sum(attempt.first <= row < attempt.end for attempt in attempts) >= max_attempts
    for row in found.free:
        assert not any(attempt.first <= row < attempt.end for attempt in attempts)


@pytest.mark.parametrize(("max_attempts", "sizes"), [(2, [1]), (3, [16, 1]), (4, [41, 7, 1]), (5, [64, 16, 4, 1])])
def test_groups_shrink_in_equal_steps_down_to_one_row(max_attempts: int, sizes: list[int]) -> None:
    rows, found = 256, list[int]()
    for deaths in range(1, max_attempts):
        rows = group_size(rows, deaths, max_attempts)
        found.append(rows)
    assert found == sizes
