"""What the ledger promises, one by one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdshort.jobs.input import unpack
from holdshort.jobs.ledger import Attempt, Ledger, NotTaken, Progress, Stripe, layout
from holdshort.jobs.ledger.turns import parse_hint, progress_hint
from holdshort.jobs.record import Counts, JobRecord, ShardSizes
from holdshort.jobs.settling import settle
from holdshort.storage.errors import Corrupt, UnknownJob
from holdshort.storage.local import LocalStore
from support.jobs import accept, make_record, result_line, shard_result


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


@pytest.fixture
def ledger(store: LocalStore) -> Ledger:
    return Ledger(store, clock=lambda: 1000.0)


@pytest.fixture
def record(ledger: Ledger) -> JobRecord:
    """A job of two stripes, with shards 0, 2, 4 and 1, 3."""
    return accept(ledger, make_record([4, 4, 4, 4, 2], stripes=2))


def take(ledger: Ledger, record: JobRecord, stripe: int = 0, number: int = 1, **more: Any) -> Stripe:
    taken = ledger.take_turn(record, stripe, number, **{"worker": "w", **more})
    assert isinstance(taken, Stripe), taken
    return taken


def refusal(ledger: Ledger, record: JobRecord, stripe: int = 0, number: int = 1, **more: Any) -> str:
    taken = ledger.take_turn(record, stripe, number, **{"worker": "late", **more})
    assert isinstance(taken, NotTaken)
    return taken.reason


def commit(stripe: Stripe, shards: int = 1) -> None:
    for _ in range(shards):
        shard = stripe.next_shard
        assert shard is not None
        stripe.commit(shard, *shard_result(stripe.record, shard))


def finish(ledger: Ledger, record: JobRecord) -> None:
    for stripe, number in ledger.next_turns(record).items():
        held = take(ledger, record, stripe, number)
        while held.next_shard is not None:
            commit(held)
        assert held.end("completed", at=1000.0)


class AnswerLost:
    """A store whose next create succeeds, but is told as its repetition is: the object is there already."""

    def __init__(self, behind: LocalStore) -> None:
        self._behind = behind
        self.armed = False

    def create(self, path: str, data: bytes) -> bool:
        created = self._behind.create(path, data)
        armed, self.armed = self.armed, False
        return created and not armed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._behind, name)


# -- accepting -------------------------------------------------------------------------------------------


def test_an_accepted_job_is_active_and_waits_to_be_published(ledger: Ledger, record: JobRecord) -> None:
    assert ledger.record(record.id) == record
    assert list(ledger.jobs()) == list(ledger.active()) == list(ledger.active("embed")) == [record.id]
    assert ledger.active_pools() == ["embed"]
    assert ledger.unpublished() == [record.id]
    ledger.published(record.id)
    assert ledger.unpublished() == []
    ledger.queue_again(record.id)
    assert ledger.unpublished() == [record.id]


def test_accepting_an_id_twice_keeps_the_first_job(ledger: Ledger, record: JobRecord) -> None:
    other = replace(record, pool="other", digest="sha256:1")
    assert ledger.accept(other) == record
    assert Ledger(ledger.store).accept(other) == record
    assert list(ledger.active()) == [record.id]
    assert list(ledger.active("other")) == []


def test_accepting_an_ended_job_again_does_not_wake_it(ledger: Ledger, record: JobRecord) -> None:
    finish(ledger, record)
    assert settle(ledger, record)
    assert ledger.accept(record) == record
    assert list(ledger.active()) == []
    assert ledger.unpublished() == []


def test_of_many_who_accept_one_id_all_get_the_same_job(ledger: Ledger) -> None:
    job_id = make_record([1]).id
    records = [replace(make_record([1], job_id=job_id), upload=f"upload-{number}") for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        found = set(pool.map(lambda record: Ledger(ledger.store).accept(record).upload, records))
    assert len(found) == 1


def test_an_id_that_was_removed_may_be_accepted_anew(ledger: Ledger, record: JobRecord) -> None:
    finish(ledger, record)
    settle(ledger, record)
    ledger.remove(record)
    with pytest.raises(UnknownJob):
        ledger.record(record.id)
    anew = replace(record, sizes=ShardSizes.of([1]), stripes=1)
    assert ledger.accept(anew) == anew
    assert ledger.record(record.id) == anew
    assert ledger.next_turns(anew) == {0: 1}


@pytest.mark.parametrize("job_id", ["", "../x", "a/b", "x" * 26 + "/", "0" * 26])
def test_an_unknown_id_is_told(ledger: Ledger, job_id: str) -> None:
    with pytest.raises(UnknownJob, match="holdshort jobs"):
        ledger.record(job_id)


# -- turns -----------------------------------------------------------------------------------------------


def test_a_turn_leads_through_the_shards_of_its_stripe_in_order(ledger: Ledger, record: JobRecord) -> None:
    held = take(ledger, record, stripe=0)
    order: list[int | None] = [held.next_shard]
    while held.next_shard is not None:
        commit(held)
        order.append(held.next_shard)
    assert order == [0, 2, 4, None]
    assert ledger.committed(record.id) == [0, 2, 4]
    assert held.progress.counts.total == 10


def test_a_second_copy_of_a_message_is_dropped(ledger: Ledger, record: JobRecord) -> None:
    take(ledger, record)
    assert "taken by w" in refusal(ledger, record)


def test_a_stale_message_is_dropped_even_when_it_is_redelivered(ledger: Ledger, record: JobRecord) -> None:
    take(ledger, record, number=1)
    take(ledger, record, number=2)
    assert "stale" in refusal(ledger, record, number=1)
    assert "stale" in refusal(ledger, record, number=1, redelivered=True)


def test_a_message_that_skips_turns_makes_those_between_stale(ledger: Ledger, record: JobRecord) -> None:
    take(ledger, record, number=1)
    take(ledger, record, number=3)
    assert "stale" in refusal(ledger, record, number=2)
    assert ledger.next_turns(record) == {0: 4, 1: 1}


def test_a_redelivered_message_takes_over_from_whoever_held_it(ledger: Ledger, record: JobRecord) -> None:
    first = take(ledger, record)
    commit(first)
    assert not first.is_superseded()
    second = take(ledger, record, redelivered=True)
    assert (second.turn.key, second.next_shard) == ((1, 1), 2)
    assert first.is_superseded()
    assert not second.is_superseded()
    third = take(ledger, record, redelivered=True)
    assert third.turn.key == (1, 2)


def test_a_superseded_worker_cannot_end_the_stripe(ledger: Ledger, record: JobRecord) -> None:
    first = take(ledger, record, number=1)
    second = take(ledger, record, number=3)
    commit(first, 3)
    assert not first.end("completed", at=1000.0)
    commit(second, 0)
    assert second.next_shard == 0  # it does not know yet
    assert not second.commit(0, *shard_result(record, 0))
    assert second.next_shard == 2


def test_a_shard_that_somebody_else_committed_counts_as_they_counted_it(ledger: Ledger, record: JobRecord) -> None:
    slow, fast = take(ledger, record), take(ledger, record, redelivered=True)
    fast.commit(0, *shard_result(record, 0, ran=1, how="cancelled"))
    assert not slow.commit(0, *shard_result(record, 0))
    assert slow.progress == fast.progress
    assert slow.progress.counts.cancelled == 3


def test_shards_are_committed_only_in_their_order(ledger: Ledger, record: JobRecord) -> None:
    held = take(ledger, record)
    for wrong in (1, 2):
        with pytest.raises(ValueError, match="not the next one"):
            held.commit(wrong, *shard_result(record, wrong))


def test_a_message_for_a_stripe_that_does_not_exist_is_dropped(ledger: Ledger, record: JobRecord) -> None:
    for stripe in (-1, 2, 10**9):
        assert "no stripe" in refusal(ledger, record, stripe=stripe)


def test_an_ended_stripe_takes_no_more_turns(ledger: Ledger, record: JobRecord) -> None:
    finish(ledger, record)
    assert ledger.next_turns(record) == {}
    for number in (1, 2, 3, 99):
        assert "has ended" in refusal(ledger, record, number=number, redelivered=True)
    assert not ledger.end_stripe(record, 0, "expired", by="controller")


def test_of_many_workers_with_the_same_message_one_takes_the_turn(ledger: Ledger, record: JobRecord) -> None:
    start = threading.Barrier(12)

    def race(number: int) -> bool:
        start.wait()
        return isinstance(Ledger(ledger.store).take_turn(record, 0, 1, worker=str(number)), Stripe)

    with ThreadPoolExecutor(12) as pool:
        assert sum(pool.map(race, range(12))) == 1


def test_a_turn_whose_answer_was_lost_is_recognised_as_ours(store: LocalStore) -> None:
    unsure = AnswerLost(store)
    ledger = Ledger(unsure)
    record = accept(ledger, make_record([1, 1], stripes=2))
    unsure.armed = True
    held = take(ledger, record)
    commit(held)
    unsure.armed = True
    assert held.end("completed", at=1.0)
    unsure.armed = True
    assert ledger.end_stripe(record, 1, "expired", by="controller")
    unsure.armed = True
    outcome = ledger.settle(record)
    assert outcome is not None
    assert outcome.counts.expired == 1


def test_a_commit_whose_answer_was_lost_counts_once(store: LocalStore) -> None:
    unsure = AnswerLost(store)
    ledger = Ledger(unsure)
    record = accept(ledger, make_record([3]))
    held = take(ledger, record)
    unsure.armed = True
    commit(held)
    assert held.next_shard is None
    assert held.progress.counts.total == 3


# -- progress --------------------------------------------------------------------------------------------


def test_a_turn_goes_on_behind_what_earlier_ones_committed(ledger: Ledger, record: JobRecord) -> None:
    first = take(ledger, record)
    commit(first, 2)
    without = take(ledger, record, number=2)
    hinted = take(ledger, record, number=3, hint=first.progress)
    assert without.progress == hinted.progress == first.progress
    assert hinted.next_shard == 4


def test_a_true_hint_saves_reading_the_summaries(ledger: Ledger, record: JobRecord, store: LocalStore) -> None:
    first = take(ledger, record)
    commit(first, 2)
    for shard in (0, 2):
        store.replace(layout.shard(record.id, shard), b"unreadable")
    assert take(ledger, record, number=2, hint=first.progress).next_shard == 4


@pytest.mark.parametrize(
    "hint",
    [
        Progress(1, Counts(ok=3)),  # has too few rows
        Progress(2, Counts(ok=8)),  # not committed yet
        Progress(3, Counts(ok=10)),
        Progress(99, Counts(ok=10**9)),
        Progress(0, Counts(ok=5)),
    ],
)
def test_a_hint_that_the_store_does_not_bear_out_is_not_used(ledger: Ledger, record: JobRecord, hint: Progress) -> None:
    first = take(ledger, record)
    commit(first)
    held = take(ledger, record, number=2, hint=hint)
    assert held.progress == first.progress


@pytest.mark.parametrize("garbage", [None, "", 7, {}, [], [1], [1, 2, 3, 4, -5], [1, 2, 3, 4, "5"], [1.5, 0, 0, 0, 0]])
def test_a_hint_of_another_form_is_none(garbage: object) -> None:
    assert parse_hint(garbage) == Progress()


def test_a_hint_is_read_as_it_was_written() -> None:
    progress = Progress(7, Counts(ok=1, error=2, expired=3, cancelled=4))
    assert parse_hint(progress_hint(progress)) == progress


def test_a_stripe_that_is_ended_keeps_what_was_committed(ledger: Ledger, record: JobRecord) -> None:
    held = take(ledger, record)
    commit(held, 2)
    assert ledger.end_stripe(record, 0, "expired", by="controller")
    assert held.is_superseded()
    turn = ledger.turns(record.id)[0]
    assert turn.progress.position == 2
    assert turn.progress.counts == held.progress.counts + Counts(expired=2)


def test_a_stripe_whose_shards_are_all_committed_is_completed_not_expired(ledger: Ledger, record: JobRecord) -> None:
    commit(take(ledger, record), 3)
    ledger.end_stripe(record, 0, "expired", by="controller")
    assert ledger.turns(record.id)[0].ended == "completed"


# -- ending ----------------------------------------------------------------------------------------------


def test_a_job_ends_when_its_last_stripe_has(ledger: Ledger, record: JobRecord) -> None:
    held = take(ledger, record, stripe=1)
    commit(held, 2)
    held.end("completed", at=1000.0)
    assert ledger.settle(record) is None
    finish(ledger, record)
    outcome = ledger.settle(record)
    assert outcome is not None
    assert (outcome.state, outcome.counts.total, outcome.positions) == ("completed", 18, (3, 2))
    assert ledger.settle(record) == ledger.outcome(record.id) == outcome
    assert ledger.control(record.id).ended
    assert list(ledger.active()) == []


def test_of_many_who_settle_one_writes_the_outcome_and_all_see_it(store: LocalStore, record: JobRecord) -> None:
    finish(Ledger(store), record)
    clocks = iter(range(12))
    ledgers = [Ledger(store, clock=lambda: float(next(clocks))) for _ in range(12)]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda ledger: ledger.settle(record), ledgers))
    assert len(set(found)) == 1


def test_a_job_with_rows_that_were_cancelled_is_cancelled_whoever_ends_it(ledger: Ledger) -> None:
    record = accept(ledger, make_record([4]))
    held = take(ledger, record)
    ledger.cancel(record.id, "changed my mind")
    held.commit(0, *shard_result(record, 0, ran=1, how="cancelled"))
    # Its worker dies here; the next one finds nothing left to do.
    held = take(ledger, record, redelivered=True)
    assert held.next_shard is None
    held.end("completed", at=1000.0)
    outcome = ledger.settle(record)
    assert outcome is not None
    assert (outcome.state, outcome.reason, outcome.counts.cancelled) == ("cancelled", "changed my mind", 3)


def test_counts_that_contradict_the_job_are_not_settled(ledger: Ledger, record: JobRecord, store: LocalStore) -> None:
    finish(ledger, record)
    turn = ledger.turns(record.id)[0]
    wrong = replace(turn, progress=Progress(3, Counts(ok=9)))
    store.replace(layout.turn(record.id, 0, *turn.key), wrong.encode())
    with pytest.raises(Corrupt, match=r"accepted 18 rows but accounts for 17"):
        ledger.settle(record)
    assert ledger.outcome(record.id) is None
    assert list(ledger.active()) == [record.id]


def test_a_job_with_a_webhook_owes_it_before_it_has_ended(ledger: Ledger, store: LocalStore) -> None:
    record = accept(ledger, make_record([1], webhook="https://example.org/hook"))
    finish(ledger, record)
    ledger.settle(record)
    assert store.list(layout.WEBHOOKS) == [record.id]


def test_only_the_first_cancel_counts(ledger: Ledger, record: JobRecord) -> None:
    assert ledger.cancel_reason(record.id) == ""
    assert ledger.cancel(record.id, "first")
    assert not ledger.cancel(record.id, "second")
    assert ledger.cancel_reason(record.id) == "first"
    assert ledger.control(record.id).cancelled


def test_pausing_and_resuming_alternate_however_many_try(ledger: Ledger, record: JobRecord) -> None:
    rounds = 10
    for _ in range(3):
        for paused in (True, False):
            with ThreadPoolExecutor(rounds) as pool:
                tries = [pool.submit(ledger.pause, record.id, paused=paused) for _ in range(rounds)]
                assert sum(each.result() for each in tries) == 1
            assert ledger.control(record.id).paused is paused
    assert ledger.control(record.id).pauses == 6


def test_pausing_raced_by_resuming_leaves_one_of_both(ledger: Ledger, record: JobRecord) -> None:
    def toggle(paused: bool) -> int:
        return sum(ledger.pause(record.id, paused=paused) for _ in range(20))

    with ThreadPoolExecutor(4) as pool:
        changes = sum(pool.map(toggle, [True, False, True, False]))
    control = ledger.control(record.id)
    assert control.pauses == changes
    assert control.paused == (changes % 2 == 1)


def test_sweeping_keeps_results_outcome_and_status(ledger: Ledger, record: JobRecord, store: LocalStore) -> None:
    held = take(ledger, record)
    held.save_partial(0, {0: b"x"})
    held.note_attempt(0, Attempt(0, 4))
    take(ledger, record, redelivered=True)
    finish(ledger, record)
    outcome = ledger.settle(record)
    ledger.sweep(record)
    assert store.list(layout.partials(record.id)) == store.list(layout.attempts(record.id)) == []
    assert len(store.list(layout.turns(record.id))) == record.stripes
    assert ledger.outcome(record.id) == outcome
    assert "has ended" in refusal(ledger, record, number=2)


def test_removing_an_ended_job_leaves_nothing(ledger: Ledger, record: JobRecord, store: LocalStore) -> None:
    finish(ledger, record)
    ledger.settle(record)
    ledger.remove(record)
    ledger.remove(record)
    assert list(ledger.jobs()) == []
    assert store.list(layout.job(record.id)) == []


# -- what a shard has behind it --------------------------------------------------------------------------


def test_saved_rows_are_there_for_the_next_turn_until_the_shard_is_committed(ledger: Ledger, record: JobRecord) -> None:
    held = take(ledger, record)
    held.save_partial(0, {0: result_line(record, 0), 2: result_line(record, 2)})
    held.save_partial(0, {})
    held.save_partial(0, {1: b"with\ttab and \\n"})
    held.save_partial(2, {0: b"of another shard"})
    later = take(ledger, record, number=2)
    later.save_partial(0, {0: b"a second answer for the same row", 3: b"new"})
    assert later.partial(0) == {
        0: result_line(record, 0),
        1: b"with\ttab and \\n",
        2: result_line(record, 2),
        3: b"new",
    }
    commit(later)
    later.drop_partial(0)
    assert later.partial(0) == {}
    assert later.partial(2) == {0: b"of another shard"}
    later.save_partial(2, {}, {1: 1, 3: 2})
    later.save_partial(2, {3: b"done"}, {1: 2})
    assert later.tries(2) == {1: 2, 3: 2}
    assert later.partial(2) == {0: b"of another shard", 3: b"done"}


def test_saved_rows_that_cannot_be_read_are_run_again(ledger: Ledger, record: JobRecord, store: LocalStore) -> None:
    held = take(ledger, record)
    held.save_partial(0, {0: b"lost"})
    held.save_partial(0, {1: b"kept"})
    store.replace(layout.partial(record.id, 0, *held.turn.key, 0), b"")
    assert held.partial(0) == {1: b"kept"}


def test_attempts_stay_noted_unless_they_went_well(ledger: Ledger, record: JobRecord) -> None:
    held = take(ledger, record)
    held.note_attempt(0, Attempt(0, 4))
    held.note_attempt(0, Attempt(0, 2))
    held.forget_attempt()
    held.note_attempt(0, Attempt(2, 4))
    held.note_attempt(2, Attempt(1, 2))
    later = take(ledger, record, number=2)
    assert later.attempts(0) == [Attempt(0, 4), Attempt(2, 4)]
    assert later.attempts(2) == [Attempt(1, 2)]
    later.drop_partial(0)
    assert later.attempts(0) == []
    assert later.attempts(2) == [Attempt(1, 2)]


def test_an_attempt_whose_answer_was_lost_is_noted_once(store: LocalStore) -> None:
    unsure = AnswerLost(store)
    ledger = Ledger(unsure)
    held = take(ledger, accept(ledger, make_record([4])))
    unsure.armed = True
    held.note_attempt(0, Attempt(0, 4))
    assert held.attempts(0) == [Attempt(0, 4)]
    held.forget_attempt()
    assert held.attempts(0) == []


def test_an_attempt_that_was_cut_off_blames_nobody(ledger: Ledger, record: JobRecord, store: LocalStore) -> None:
    held = take(ledger, record)
    held.note_attempt(0, Attempt(0, 4))
    store.replace(layout.attempt(record.id, 0, 1), b"")
    assert held.attempts(0) == []


# -- damage ----------------------------------------------------------------------------------------------


def test_a_damaged_object_is_named(ledger: Ledger, record: JobRecord, store: LocalStore) -> None:
    commit(take(ledger, record))
    turn = ledger.turns(record.id)[0]
    reads: dict[str, Callable[[], object]] = {
        layout.shard(record.id, 0): lambda: ledger.shard(record.id, 0),
        layout.turn(record.id, 0, *turn.key): lambda: ledger.turns(record.id),
        layout.outcome(record.id): lambda: ledger.outcome(record.id),
        layout.record(record.id): lambda: Ledger(store).record(record.id),
    }
    for path, read in reads.items():
        for data in (b"", b"\0\0", b"[]", b"{}", b"null", b'{"progress": 1}'):
            store.replace(path, data)
            with pytest.raises(Corrupt, match=path):
                read()


def test_a_damaged_shard_is_named_by_whoever_counts_it(ledger: Ledger, record: JobRecord, store: LocalStore) -> None:
    first = take(ledger, record)
    second = take(ledger, record, redelivered=True)
    commit(first)
    path = layout.shard(record.id, 0)
    store.replace(path, store.read(path)[:-3])
    assert ledger.summary(record.id, 0).counts.total == 4  # what it needs is whole
    with pytest.raises(Corrupt, match=path):
        ledger.shard(record.id, 0)
    store.replace(path, b"")
    for read in (
        lambda: ledger.summary(record.id, 0),
        lambda: take(ledger, record, number=2),
        lambda: commit(second),
        lambda: ledger.end_stripe(record, 0, "expired", by="controller"),
    ):
        with pytest.raises(Corrupt, match=path):
            read()


@pytest.mark.parametrize("data", [b"", b"{}\n", b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 8 + b"\0" * 9])
def test_damaged_input_is_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt):
        unpack(data)


# -- sizes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[1], [5, 5, 5], [5, 5, 3], [1, 2, 3, 3, 1]])
def test_a_record_knows_where_each_shard_begins(sizes: list[int]) -> None:
    record = JobRecord.decode(make_record(sizes, stripes=2).encode())
    assert [record.shard_size(shard) for shard in range(record.shards)] == list(record.sizes) == sizes
    assert [record.first_row(shard) for shard in range(record.shards)] == [sum(sizes[:n]) for n in range(len(sizes))]
    assert sorted(shard for stripe in range(record.stripes) for shard in record.stripe_shards(stripe)) == list(
        range(len(sizes))
    )
    assert record.rows == sum(sizes)
