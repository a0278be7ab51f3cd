"""What was seen of objects tells how they are used, and which profile fits."""

from __future__ import annotations

from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdshort.profiles import BUILT_IN, resolve
from holdshort.profiles.access import KIB, MIB
from holdshort.profiles.pattern import Event, Observed, Pattern, folder_of
from support.traces import RECORDED, TRACES, stage_of

EXPECTED = {
    "in_order_once": ("object after object", "plain"),
    "shards_in_every_epoch": ("object after object, again and again", "training"),
    "samples_at_random": ("small reads at random", "plain"),
    "many_small_files": ("many small objects, again and again", "training"),
    "ranges_at_once": ("many ranges at once, again and again", "training"),
    "columns_of_tables": ("footer, then ranges", "plain"),
    "weights_by_one": ("object after object", "plain"),
    "weights_by_replicas": ("one object, many readers", "serving"),
    "one_file_by_all_ranks": ("one object, many readers", "serving"),
    "checkpoints_written": ("written once", "checkpoint"),
    "a_log_that_grows": ("append", "checkpoint"),
    "a_restore": ("object after object", "plain"),
    "backwards": ("footer, then ranges", "plain"),
    # recorded
    "array_by_zarr": ("many small objects, again and again", "training"),
    "batches_by_pyarrow": ("object after object, again and again", "training"),
    "columns_by_pyarrow": ("footer, then ranges", "plain"),
    "csv_by_pandas": ("object after object", "plain"),
    "epochs_by_workers": ("object after object, again and again", "training"),
    "lines_by_json": ("object after object", "plain"),
    "members_by_zipfile": ("at random all over", "plain"),
    "samples_by_index": ("at random all over, again and again", "training"),
    "shards_by_tarfile": ("object after object", "plain"),
    "tables_by_pandas": ("object after object", "plain"),
    "weights_by_header": ("object after object", "plain"),
}


def _seen_by_all(name: str) -> Pattern | None:
    """What the last process of a trace concludes, when each has heard what the others had to say."""
    trace = TRACES[name]()
    processes = sorted({event.process for event in trace}, key=stage_of)
    watching = {process: Observed() for process in processes}
    for now_s, event in enumerate(sorted(trace, key=lambda event: stage_of(event.process))):
        watching[event.process].tell(Event(now_s, event.kind, event.path, event.size, event.start, event.length))
    for process, observed in watching.items():
        observed.learn(each.seen(other, len(trace)) for other, each in watching.items() if other != process)
    return watching[processes[-1]].pattern()


def test_there_are_enough_traces_made_and_recorded() -> None:
    assert set(EXPECTED) == set(TRACES)
    recorded = {path.stem for path in RECORDED.glob("*.json")}
    assert len(TRACES) - len(recorded) >= 12
    assert len(recorded) >= 8


@pytest.mark.parametrize("name", EXPECTED)
def test_each_pattern_is_told(name: str) -> None:
    pattern = _seen_by_all(name)
    assert pattern is not None
    assert (pattern.name, pattern.profile) == EXPECTED[name]
    assert pattern.signals
    choice = pattern.choice(BUILT_IN)
    assert pattern.name in choice.why
    plan = resolve(choice.profile, BUILT_IN, observed=choice.values)
    for name, value in pattern.values:
        assert getattr(plan.access, name) == value
    assert {each.name for each in plan.applied if each.source == "observed"} == {name for name, _ in pattern.values}


# -- objects that change -----------------------------------------------------------------------------------


def _read(observed: Observed, path: str, at_s: float, tag: str, size: int = 16 * MIB) -> None:
    observed.tell(Event(at_s, "open", path, size, tag=tag))
    observed.tell(Event(at_s, "read", path, size, 0, size))


def test_nothing_is_taken_for_unchanged_where_one_object_has_changed() -> None:
    observed = Observed()
    for at_s in range(3):
        _read(observed, "a/x", at_s, "first")
    pattern = observed.pattern()
    assert pattern is not None
    assert pattern.comes_back
    _read(observed, "a/x", 4, "second")
    pattern = observed.pattern()
    assert pattern is not None
    assert (pattern.name, pattern.profile) == ("objects that change", "plain")


def test_a_change_between_two_processes_counts_for_all() -> None:
    one, other, third = Observed(), Observed(), Observed()
    _read(one, "a/x", 0, "first")
    _read(other, "a/x", 1, "second")
    third.learn([one.seen("one", 2), other.seen("other", 2)])
    found = third.pattern()
    assert found is not None
    assert found.name == "objects that change"


def test_an_object_that_is_read_and_then_written_changes() -> None:
    observed = Observed()
    for at_s in range(3):
        _read(observed, "a/x", at_s, "first")
    observed.tell(Event(4, "write", "a/x"))
    found = observed.pattern()
    assert found is not None
    assert not found.comes_back


def test_a_few_small_files_that_are_looked_at_again_and_again_are_always_asked_for() -> None:
    observed = Observed()
    for at_s in range(200):
        _read(observed, f"a/{at_s % 3}.json", at_s, "same", size=20 * KIB)
    found = observed.pattern()
    assert found is None or not found.comes_back


def _sampled(observed: Observed, opens: list[str], *, size: int = 8 * MIB, tags: str = "same") -> None:
    """A little of an object, each time that it is opened."""
    for at_s, path in enumerate(opens):
        observed.tell(Event(at_s, "open", path, size, tag=tags if path == "a/0" else "same"))
        observed.tell(Event(at_s, "read", path, size, (at_s + 1) * 300 * KIB, 200 * KIB))


def test_several_large_objects_that_were_returned_to_come_back() -> None:
    order = [f"a/{n}" for n in (0, 1, 2, 3, 0, 2, 1, 3)]
    for returns in range(4):
        few = Observed()
        _sampled(few, order[: 4 + returns])
        found = few.pattern()
        assert found is None or not found.comes_back, f"{returns} times is not enough"
    observed = Observed()
    _sampled(observed, order)
    found = observed.pattern()
    assert found is not None
    assert found.comes_back
    assert "4 times one of 4 objects was asked for again" in found.signals[0]
    _sampled(observed, ["a/0"], tags="another")
    changed = observed.pattern()
    assert changed is not None
    assert changed.name == "objects that change"


def test_an_object_that_is_opened_twice_in_a_row_has_not_come_back() -> None:
    observed = Observed()
    _sampled(observed, [f"a/{n // 2}" for n in range(40)])
    found = observed.pattern()
    assert found is None or not found.comes_back


def test_small_objects_that_are_returned_to_do_not_add_up_by_time() -> None:
    observed = Observed()
    _sampled(observed, [f"a/{n % 3}" for n in range(9)], size=2 * MIB)
    found = observed.pattern()
    assert found is None or not found.comes_back


# -- others ------------------------------------------------------------------------------------------------


def test_a_worker_that_begins_anew_starts_with_what_the_others_know() -> None:
    before = [Observed(), Observed()]
    for epoch, observed in enumerate(before):
        for n in range(8):
            _read(observed, f"a/{n}", epoch * 100 + n, "same")
    told = before[0].seen("first", 100)
    before[1].learn([told])
    _read(before[1], "a/7", 200, "same")
    assert before[1].pattern() is not None
    fresh = Observed()
    fresh.learn([told, before[1].seen("second", 200)])
    found = fresh.pattern()
    assert found is not None
    assert found.comes_back
    assert found.signals[-1] == "seen by another process"


def test_what_others_said_is_not_told_on_so_that_it_can_grow_old() -> None:
    first, second = Observed(), Observed()
    for at_s in range(3):
        _read(first, "a/x", at_s, "same")
    second.learn([first.seen("first", 3)])
    _read(second, "a/other", 4, "same")
    found = second.pattern()
    assert found is not None
    assert found.comes_back
    told = second.seen("second", 5).pattern
    assert told is None or not told.comes_back


# -- whatever comes ----------------------------------------------------------------------------------------

events = st.builds(
    Event,
    at_s=st.floats(0, 1e6),
    kind=st.sampled_from(["open", "read", "close", "vector", "whole", "write", "append"]),
    path=st.sampled_from([f"d/{n}" for n in range(12)]),
    size=st.sampled_from([0, 1000, 2**26, 2**26, 2**40]),
    start=st.integers(0, 2**40),
    length=st.integers(0, 2**31),
    tag=st.sampled_from(["", "same"]),
)


@given(st.lists(events, max_size=300), st.lists(events, max_size=20))
def test_whatever_happens_something_sensible_is_said(mine: list[Event], theirs: list[Event]) -> None:
    observed, other = Observed(), Observed()
    for event in theirs:
        other.tell(event)
    for place, event in enumerate(mine):
        observed.tell(event)
        if place == len(mine) // 2:
            observed.learn([other.seen("other", 0.0)])
        pattern = observed.pattern()
        assert pattern is None or (pattern.profile in BUILT_IN and pattern.signals)
    assert observed.seen("me", 1.0).marks == observed.seen("me", 1.0).marks


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=400))
def test_it_changes_its_mind_no_more_often_than_the_evidence_doubles(turns: list[tuple[int, bool]]) -> None:
    """Whoever tries to make it waver: in order and at random in turns."""
    observed, minds, position, reads = Observed(), list[str](), 0, 0
    for path, jumps in turns:
        position = (position + 7_777_777) % 2**30 if jumps else position
        observed.tell(Event(0.0, "read", f"d/{path}", 2**30, position, 64 * KIB))
        position, reads = position + 64 * KIB, reads + 1
        pattern = observed.pattern()
        if pattern is not None and (not minds or minds[-1] != pattern.name):
            minds.append(pattern.name)
    assert len(minds) <= 2 + log2(reads)


def test_of_many_objects_the_same_ones_are_watched_in_every_epoch_and_memory_stays_bounded() -> None:
    observed = Observed()
    for epoch in range(2):
        for n in range(20_000):
            _read(observed, f"d/{n}", epoch, "same", size=2 * MIB)
    assert len(observed._objects) <= 4096  # pyright: ignore[reportPrivateUsage]
    assert len(observed.seen("me", 0.0).marks) <= 64
    found = observed.pattern()
    assert found is not None
    assert found.name == "object after object, again and again"


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("bucket/a/x.bin", "bucket/a"),
        ("bucket/array/c/0/1/2", "bucket/array/c"),
        ("bucket/table/year=2024/month=1/part-0", "bucket/table"),
        ("bucket/0/1", "bucket"),
        ("x", ""),
    ],
)
def test_folders_of_numbers_and_of_values_belong_to_the_one_they_lie_in(path: str, folder: str) -> None:
    assert folder_of(path) == folder


def test_ranges_of_an_object_whose_size_nobody_told_are_seen_to_come_back() -> None:
    observed = Observed()
    for at_s in range(5):
        for n in range(8):
            observed.tell(Event(at_s, "vector", "d/table", 0, (at_s * 8 + n) * 10 * MIB, 128 * KIB))
    found = observed.pattern()
    assert found is not None
    assert (found.name, found.profile) == ("many ranges at once, again and again", "training")
