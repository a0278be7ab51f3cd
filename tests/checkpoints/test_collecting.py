"""What dead attempts left goes, while others write; who was taken for dead and is not, fails to commit and says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from holdshort.storage import checkpoints
from holdshort.storage.checkpoints import collecting
from holdshort.storage.checkpoints.attempts import Attempt, attempts_of, decide, fate_of
from holdshort.storage.checkpoints.collecting import SEALED_SILENT_S, Leftover
from holdshort.storage.checkpoints.manifest import CopiedFile, commit_manifest, read_manifest, steps
from holdshort.storage.checksums import Sum
from holdshort.storage.errors import AttemptLost, NotAllowedNow
from holdshort.storage.store import Store
from support.places import Place

LATER_S = 2 * 3600.0
_begun: list[Attempt] = []


@pytest.fixture(autouse=True)
def _nobody_goes_on() -> Iterator[None]:
    """No lease is renewed after its test."""
    yield
    while _begun:
        _begun.pop().stop_renewing()


@pytest.fixture
def store(place: Place) -> Store:
    return Place(place.kind, place.url.removeprefix("checkpoint::"), options=place.options).open()


def begin(store: Store, step: int = 5, **options: Any) -> Attempt:
    attempt = Attempt(store, "run", step, patience_s=1, **options)
    attempt.begin()
    _begun.append(attempt)
    return attempt


def write(store: Store, attempt: Attempt, path: str = "deep/a.bin", data: bytes = b"data") -> CopiedFile:
    store.upload(attempt.file_path(path), [data])
    found = Sum()
    found.add(data)
    return CopiedFile(path, found.size_bytes, found.crc32c)


def collect(store: Store, after_s: float = 0.0, **options: Any) -> list[Leftover]:
    return collecting.collect(store, "run", now=lambda: time.time() + after_s, **options)


def is_there(store: Store, attempt: Attempt, path: str = "deep/a.bin") -> bool:
    folder, _, name = attempt.file_path(path).rpartition("/")
    return name in store.list(folder)


def test_what_is_being_written_is_left_and_what_is_silent_goes(store: Store) -> None:
    attempt = begin(store)
    write(store, attempt)
    (left,) = collect(store)
    assert (left.removed, left.why) == (False, "it is being written")
    assert is_there(store, attempt)
    (shown,) = collect(store, LATER_S, really=False)
    assert shown.removed
    assert is_there(store, attempt)
    (gone,) = collect(store, LATER_S)
    assert (gone.step, gone.attempt, gone.removed) == (5, attempt.attempt, True)
    assert "nothing was heard" in gone.why
    assert not is_there(store, attempt)
    assert collect(store, LATER_S) == []


def test_a_writer_that_was_taken_for_dead_fails_to_commit_and_leaves_nothing(store: Store) -> None:
    attempt = begin(store)
    file = write(store, attempt)
    collect(store, LATER_S)
    with pytest.raises(AttemptLost, match=r"deep/a\.bin is not in the store any more"):
        attempt.commit([file], timeout_s=1)
    attempt.give_up("lost")
    assert steps(store, "run") == []
    assert collect(store, LATER_S) == []


def test_who_decides_first_has_decided(store: Store) -> None:
    attempt = begin(store)
    file = write(store, attempt)
    assert decide(store, "run", 5, attempt.attempt, "dead", "by hand") == ("dead", "by hand")
    with pytest.raises(AttemptLost, match="by hand"):
        attempt.commit([file], timeout_s=1)
    other = begin(store)
    write(store, other)
    assert decide(store, "run", 5, other.attempt, "sealed", "")[0] == "sealed"
    assert decide(store, "run", 5, other.attempt, "dead", "too late")[0] == "sealed"
    assert fate_of(store, "run", 5, other.attempt)[0] == "sealed"


class Between:
    """A store in which something happens just before the first object of a kind is created."""

    def __init__(self, store: Store, ending: str, happens: Callable[[], Any]) -> None:
        self._store, self._ending, self._happens = store, ending, happens
        self.happened = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def create(self, path: str, data: bytes) -> bool:
        if path.endswith(self._ending) and not self.happened:
            self.happened = True
            self._happens()
        return self._store.create(path, data)


def test_who_commits_between_a_collectors_look_and_its_decision_keeps_all(store: Store) -> None:
    attempt = begin(store)
    file = write(store, attempt)
    between = Between(store, ".fate", lambda: attempt.commit([file], timeout_s=1))
    (left,) = collect(cast("Store", between), LATER_S)
    assert between.happened
    assert (left.removed, left.why) == (False, "it was just committed")
    assert is_there(store, attempt)
    assert [(found.leases, found.has_fate) for found in attempts_of(store, "run", 5).values()] == [((), False)]


@pytest.mark.parametrize(("ending", "is_lost"), [(".fate", True), ("5.json", False)])
def test_a_collector_between_two_requests_of_a_commit_breaks_nothing(store: Store, ending: str, is_lost: bool) -> None:
    between = Between(store, ending, lambda: collect(store, LATER_S))
    attempt = begin(cast("Store", between))
    file = write(store, attempt)
    if is_lost:
        with pytest.raises(AttemptLost, match="not in the store any more"):
            attempt.commit([file], timeout_s=1)
    else:
        attempt.commit([file], timeout_s=1)
    assert between.happened
    assert steps(store, "run") == ([] if is_lost else [5])
    assert is_there(store, attempt) == (not is_lost)


def test_of_collectors_and_a_writer_at_once_one_side_wins_and_nothing_broken_is_visible(store: Store) -> None:
    for step in range(8):
        attempt = begin(store, step)
        file = write(store, attempt)
        start, lost = threading.Barrier(3), list[AttemptLost]()

        def commit(attempt: Attempt, file: CopiedFile, start: threading.Barrier, lost: list[AttemptLost]) -> None:
            start.wait()
            try:
                attempt.commit([file], timeout_s=1)
            except AttemptLost as error:
                lost.append(error)

        def tidy(start: threading.Barrier) -> None:
            start.wait()
            collect(store, LATER_S)

        threads = [threading.Thread(target=commit, args=(attempt, file, start, lost))]
        threads += [threading.Thread(target=tidy, args=(start,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert (step in steps(store, "run")) == (not lost)
        if not lost:
            assert is_there(store, attempt)


def test_losers_of_a_committed_step_go_and_the_winner_stays(store: Store) -> None:
    winner, silent, alive = begin(store), begin(store), begin(store)
    files = {each.attempt: write(store, each) for each in (winner, silent, alive)}
    job = Attempt(store, "run", 5, attempt="01job", patience_s=1)  # a job's copy has no lease
    write(store, job)
    manifest = winner.commit([files[winner.attempt]], timeout_s=1)
    with pytest.raises(NotAllowedNow, match=f"committed before, by {winner.attempt}"):
        silent.commit([files[silent.attempt]], timeout_s=1)
    found = {one.attempt: one for one in collect(store)}
    assert found["01job"].removed
    assert winner.attempt not in found
    assert not found[alive.attempt].removed
    assert {one.attempt for one in collect(store, LATER_S) if one.removed} >= {alive.attempt}
    assert read_manifest(store, "run", 5) == manifest
    assert is_there(store, winner)
    assert not any(is_there(store, each) for each in (silent, alive, job))


def test_a_copy_of_a_job_is_not_ours_to_judge(store: Store) -> None:
    job = Attempt(store, "run", 5, attempt="01job", patience_s=1)
    write(store, job)
    (left,) = collect(store, LATER_S)
    assert (left.removed, left.why) == (False, "it has no lease, as the copy of a job")
    assert is_there(store, job)


def test_who_died_at_the_very_commit_is_left_for_a_week_or_until_discarded(store: Store) -> None:
    attempt = begin(store)
    write(store, attempt)
    decide(store, "run", 5, attempt.attempt, "sealed", "")
    (left,) = collect(store, LATER_S)
    assert not left.removed
    assert "about to be committed" in left.why
    (gone,) = collect(store, SEALED_SILENT_S + LATER_S)
    assert gone.removed
    assert not is_there(store, attempt)
    # What the writer would do next finds that its files are gone.
    with pytest.raises(AttemptLost, match="not in the store any more"):
        attempt.commit([CopiedFile("deep/a.bin", 4, "00000000")], timeout_s=1)


def test_who_was_killed_just_after_the_commit_leaves_no_lease_for_ever(store: Store) -> None:
    attempt = begin(store)
    file = write(store, attempt)
    decide(store, "run", 5, attempt.attempt, "sealed", "")
    commit_manifest(store, "run", 5, attempt=attempt.attempt, files=[file])
    assert collect(store, LATER_S) == []
    (left,) = attempts_of(store, "run", 5).values()
    assert (left.leases, left.has_fate) == ((), False)
    assert is_there(store, attempt)


def test_pruning_leaves_what_is_being_written_at_a_step_that_goes(store: Store) -> None:
    for step in (1, 2):
        winner = begin(store, step)
        winner.commit([write(store, winner)], timeout_s=1)
    collecting.discard(store, "run", 1)
    late = begin(store, 1)
    write(store, late)
    other = begin(store, 1)
    other.commit([write(store, other)], timeout_s=1)
    from holdshort.storage.checkpoints.restoring import prune

    assert prune(store, "run", keep_last=1) == [1]
    assert is_there(store, late)
    assert not is_there(store, other)


def test_a_writer_that_could_not_renew_its_lease_for_long_does_not_commit(store: Store) -> None:
    now = [0.0]
    attempt = begin(store, clock=lambda: now[0])
    file = write(store, attempt)
    now[0] = 3000.0
    with pytest.raises(AttemptLost, match="could not renew its lease for 3000 s"):
        attempt.commit([file], timeout_s=1)
    attempt.give_up("slept")
    assert steps(store, "run") == []


def test_a_rank_of_which_nothing_is_heard_any_more_fails_the_others(store: Store) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 20.0  # each look at the clock takes so long
        return now[0]

    other = Attempt(store, "run", 5, attempt="together", rank=1, ranks=2, patience_s=1)
    other.begin()
    other.stop_renewing()  # as if it were killed
    attempt = begin(store, attempt="together", rank=0, ranks=2, clock=clock)
    now[0] = 0
    with pytest.raises(AttemptLost, match=r"nothing was heard of ranks \[1\] for 60 s"):
        attempt.commit([write(store, attempt)], timeout_s=10_000)
    attempt.give_up("another rank is gone")
    assert collect(store)[0].why == "it is being written"
    (gone,) = collect(store, LATER_S)
    assert gone.removed
    assert steps(store, "run") == []


def test_by_the_url(tmp_path: Path) -> None:
    url = tmp_path / "run"
    for step in range(1, 7):
        checkpoints.save({"step": step}, url, step)
    shown = checkpoints.prune(url, 2, 3, really=False)
    assert shown.steps == (1, 2, 4)
    assert len(checkpoints.steps(url)) == 6
    assert checkpoints.prune(url, 2, 3).steps == (1, 2, 4)
    assert checkpoints.steps(url) == [3, 5, 6]
    assert [checkpoints.restore(url, step=step).state["step"] for step in (3, 5, 6)] == [3, 5, 6]
    assert checkpoints.collect(url).attempts == ()
    assert sorted(p.name for p in url.iterdir() if p.name[0] == "0") == sorted(
        name for step in (3, 5, 6) for name in (f"{step:012d}", f"{step:012d}.json")
    )
