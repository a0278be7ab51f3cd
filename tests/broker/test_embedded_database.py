"""The database of the embedded broker by itself, on a clock that tests move."""

from __future__ import annotations

import gc
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from holdshort.jobs.broker.embedded import BrokerBusyError, BrokerFileError
from holdshort.jobs.broker.embedded.clock import SystemClock, read_boot_id
from holdshort.jobs.broker.embedded.database import _CLAIM, SCHEMA_VERSION, Database, Delivery, Post, QueueOptions
from holdshort.jobs.broker.embedded.mounts import network_file_system

LEASE_S = 5.0


class FakeClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.boot = "boot-1"
        self.time = 1000.0
        self.date = 1_800_000_000.0

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return self.date


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def database(tmp_path: Path, clock: FakeClock):
    database = Database.at(str(tmp_path / "broker.db"), clock)
    yield database
    database.file.close()


def post(body: str, priority: int = 0, queue: str = "q", expires_at: float | None = None) -> Post:
    return Post(queue, priority, "{}", body, expires_at)


def enter(database: Database, bell: str | None = None) -> int:
    return database.enter(lease_s=LEASE_S, bell=bell, pid=1)


def drain(database: Database, session: int, queue: str = "q") -> list[str]:
    bodies = []
    while (delivery := database.claim(queue, session)) is not None:
        bodies.append(delivery.body)
        assert database.ack(delivery)
    return bodies


def lapsed(database: Database, session: int) -> list[int]:
    return [neighbour.id for neighbour in database.neighbours(session) if neighbour.lapsed]


# -- order -----------------------------------------------------------------------------------------------


def test_the_most_urgent_comes_first_and_equals_in_order_of_arrival(database: Database) -> None:
    for number, priority in enumerate([0, 9, 5, 9, 0, 5]):
        database.put([post(f"{priority}-{number}", priority)])
    assert drain(database, enter(database)) == ["9-1", "9-3", "5-2", "5-5", "0-0", "0-4"]


def test_a_message_put_back_keeps_its_place(database: Database) -> None:
    session = enter(database)
    database.put([post("a"), post("b"), post("c")])
    first = database.claim("q", session)
    assert first is not None
    assert not first.redelivered
    database.requeue([first])
    again = database.claim("q", session)
    assert again is not None
    assert (again.id, again.body, again.redelivered) == (first.id, "a", True)


def test_claiming_walks_an_index_and_sorts_nothing(database: Database) -> None:
    database.put([post("a")])
    rows = database.file.run("EXPLAIN QUERY PLAN " + _CLAIM, (1, "q", 0.0, 1))
    plan = "\n".join(str(row[3]) for row in rows)
    assert "message_ready (queue=?)" in plan
    assert "TEMP B-TREE" not in plan
    assert "SCAN" not in plan.replace("SCAN CONSTANT ROW", "")


# -- leases ----------------------------------------------------------------------------------------------


def test_a_stale_owner_can_neither_acknowledge_nor_put_back(database: Database) -> None:
    stale, heir = enter(database), enter(database)
    database.put([post("a")])
    lost = database.claim("q", stale)
    assert lost is not None
    database.bury([stale])
    held = database.claim("q", heir)
    assert held is not None
    assert held.redelivered
    assert not database.ack(lost)
    database.requeue([lost])
    assert database.claim("q", heir) is None
    assert database.ack(held)


def test_an_old_delivery_of_the_same_owner_cannot_acknowledge_a_new_one(database: Database) -> None:
    session = enter(database)
    database.put([post("a")])
    first = database.claim("q", session)
    assert first is not None
    database.requeue([first])
    second = database.claim("q", session)
    assert second is not None
    assert not database.ack(first)
    assert database.ack(second)


def test_a_lease_lapses_on_the_lease_clock_only(database: Database, clock: FakeClock) -> None:
    watcher, other = enter(database), enter(database)
    clock.date += 1e6
    assert lapsed(database, watcher) == []
    clock.time += LEASE_S - 1
    assert database.renew(other)
    clock.time += 2
    assert lapsed(database, watcher) == []
    clock.time += LEASE_S
    assert lapsed(database, watcher) == [other]
    database.bury([other])
    assert not database.renew(other)
    database.put([post("a")])
    assert database.claim("q", other) is None


def test_a_reboot_ends_every_lease_at_once(database: Database, clock: FakeClock) -> None:
    session = enter(database)
    database.put([post("a")])
    assert database.claim("q", session)
    clock.boot, clock.time = "boot-2", 1.0
    fresh = enter(database)
    assert lapsed(database, fresh) == [session]
    database.bury([session])
    again = database.claim("q", fresh)
    assert again is not None
    assert again.redelivered


def test_without_boot_names_a_lease_from_the_future_is_an_old_one(database: Database, clock: FakeClock) -> None:
    clock.boot = ""
    session = enter(database)
    clock.time = 1.0
    assert lapsed(database, enter(database)) == [session]


def test_the_system_clock_names_the_boot_where_the_kernel_does(tmp_path: Path) -> None:
    assert SystemClock().boot == read_boot_id()
    assert read_boot_id(tmp_path / "missing") == ""


# -- queues ----------------------------------------------------------------------------------------------


def test_what_was_a_sessions_own_goes_with_it(database: Database) -> None:
    session = enter(database)
    database.declare_exchange("x", "fanout")
    database.declare_queue("exclusive", QueueOptions(owner=session))
    database.declare_queue("auto", QueueOptions(auto_delete=True))
    database.declare_queue("kept", QueueOptions())
    for queue in ("exclusive", "auto", "kept"):
        database.bind(queue, "x", "", "")
        database.consume(session, queue, queue)
        database.put([post("a", queue=queue)])
    database.bury([session])
    assert [queue for _, _, queue in database.bindings("x")] == ["kept"]
    assert (database.size("exclusive"), database.size("auto"), database.size("kept")) == (0, 0, 1)
    assert database.file.run("SELECT count(*) FROM message") == [(1,)]


def test_an_auto_delete_queue_waits_for_its_first_consumer(database: Database) -> None:
    session = enter(database)
    database.declare_queue("auto", QueueOptions(auto_delete=True))
    database.put([post("a", queue="auto")])
    database.consume(session, "auto", "1")
    database.consume(session, "auto", "2")
    database.cancel(session, "1")
    assert database.has_queue("auto")
    database.cancel(session, "2")
    assert not database.has_queue("auto")


def test_a_message_expires_by_its_own_or_its_queues_time_the_sooner(database: Database, clock: FakeClock) -> None:
    session = enter(database)
    database.declare_queue("q", QueueOptions(message_ttl_s=10))
    database.put([post("own", expires_at=clock.date + 3), post("queue's"), post("later", expires_at=clock.date + 99)])
    clock.date += 4
    first = database.claim("q", session)
    assert first is not None
    assert first.body == "queue's"
    database.requeue([first])
    assert database.expire() == 1
    clock.date += 10
    assert database.claim("q", session) is None
    assert database.expire() == 2
    assert database.size("q") == 0


def test_a_queue_expires_when_nobody_used_it(database: Database, clock: FakeClock) -> None:
    session = enter(database)
    database.declare_queue("reply", QueueOptions(expires_s=10))
    database.consume(session, "reply", "1")
    clock.date += 60
    database.expire()
    assert database.has_queue("reply")
    database.cancel(session, "1")
    clock.date += 9
    database.expire()
    assert database.has_queue("reply")
    clock.date += 2
    database.expire()
    assert not database.has_queue("reply")


def test_nothing_is_put_into_a_bound_queue_that_is_gone(database: Database) -> None:
    database.put([Post("gone", 0, "{}", "a", create=False)])
    assert not database.has_queue("gone")
    database.put([Post("made", 0, "{}", "a")])
    assert database.size("made") == 1


def test_deleting_heeds_its_conditions(database: Database) -> None:
    session = enter(database)
    database.put([post("a")])
    database.consume(session, "q", "1")
    assert not database.delete_queue("q", if_empty=True)
    assert not database.delete_queue("q", if_unused=True)
    assert database.purge("q") == 1
    assert database.delete_queue("q", if_empty=True)
    assert not database.delete_queue("q")


def test_the_bells_of_a_queues_consumers_are_told(database: Database) -> None:
    one, two, deaf = enter(database, "bell-1"), enter(database, "bell-2"), enter(database)
    for session in (one, two, deaf):
        database.consume(session, "q", "t")
    database.consume(one, "other", "t2")
    assert database.put([post("a")]) == {"bell-1", "bell-2"}
    assert database.put([post("a", queue="other"), post("b", queue="nobody's")]) == {"bell-1"}
    assert database.claim("q", one)
    assert database.bury([one]).bells == {"bell-2"}


# -- the file --------------------------------------------------------------------------------------------


def test_free_space_goes_back_to_the_file_system(database: Database, tmp_path: Path) -> None:
    session = enter(database)
    database.put([post("x" * 2000) for _ in range(5000)])
    assert len(drain(database, session)) == 5000
    while database.vacuum():
        pass
    database.file.close()
    assert (tmp_path / "broker.db").stat().st_size < 2_000_000


@pytest.mark.parametrize("damage", ["folder", "newer", "garbage", "directory"])
def test_a_file_that_cannot_be_used_is_refused_in_words(tmp_path: Path, clock: FakeClock, damage: str) -> None:
    path = tmp_path / "broker.db"
    words = {
        "folder": "does not exist. Create it",
        "newer": f"has schema {SCHEMA_VERSION + 1}; this release reads schema {SCHEMA_VERSION}",
        "garbage": "not a broker database or is damaged",
        "directory": "cannot be used",
    }
    if damage == "folder":
        path = tmp_path / "missing" / "broker.db"
    elif damage == "newer":
        with sqlite3.connect(path) as connection:
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        connection.close()
    elif damage == "garbage":
        path.write_bytes(b"not a database at all" * 500)
    else:
        path.mkdir()
    with pytest.raises(BrokerFileError, match=words[damage]):
        Database.at(str(path), clock).file.open()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_not_writable_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BrokerFileError, match="not writable"):
        Database.at(str(tmp_path / "broker.db"), clock).file.open()


def test_a_network_file_system_is_told_from_a_local_one(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 254:0 / / rw - ext4 /dev/vda rw\n"
        "30 22 0:40 / /mnt/two\\040words rw,nosuid shared:1 - nfs4 server:/x rw\n"
        "31 30 0:41 / /mnt/two\\040words/local rw - tmpfs tmpfs rw\n"
        "32 22 0:42 / /data rw - fuse.sshfs me@there:/ rw\n"
    )
    expected = {
        "/": None, "/home": None, "/mnt/two words": "nfs4", "/mnt/two words/a/b": "nfs4",
        "/mnt/two words/local": None, "/data/x": "fuse.sshfs", "/database": None,
    }  # fmt: skip
    assert {folder: network_file_system(folder, str(mounts)) for folder in expected} == expected
    assert network_file_system("/", str(tmp_path / "missing")) is None


def test_a_writer_that_does_not_end_is_named_after_a_while(tmp_path: Path, clock: FakeClock) -> None:
    database = Database.at(str(tmp_path / "broker.db"), clock, busy_timeout_s=0.05)
    database.put([post("a")])
    blocker = sqlite3.connect(tmp_path / "broker.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(BrokerBusyError, match="locked by other processes"):
        database.put([post("b")])
    blocker.execute("ROLLBACK")
    blocker.close()
    database.put([post("b")])
    assert database.size("q") == 2
    database.file.close()


def test_a_file_that_was_removed_is_made_anew(database: Database, tmp_path: Path, clock: FakeClock) -> None:
    database.put([post("a")])
    for file in tmp_path.iterdir():
        file.unlink()
    other = Database.at(str(tmp_path / "broker.db"), clock)
    other.put([post("b")])
    database.file._identity_due = 0.0
    database.put([post("c")])
    gc.collect()
    assert (tmp_path / "broker.db-wal").exists()
    assert drain(other, enter(other)) == ["b", "c"]
    other.file.close()


# -- anything in any order -------------------------------------------------------------------------------


class Model(RuleBasedStateMachine):
    """Sessions come, claim, settle, fall silent and die in any order; the database is compared with a model.

    The model: the set of accepted and unfinished messages in order of urgency, and who holds which.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = FakeClock()
        self.database = self.open()
        self.waiting: list[tuple[int, int]] = []  # (-priority, number)
        self.held: dict[int, tuple[int, tuple[int, int], Delivery]] = {}  # number: session, key, delivery
        self.stale: list[Delivery] = []
        self.until: dict[int, float] = {}
        self.numbers = 0

    def open(self) -> Database:
        return Database.at(str(self.folder / "broker.db"), self.clock)

    def teardown(self) -> None:
        self.database.file.close()
        shutil.rmtree(self.folder)

    @initialize()
    def begin(self) -> None:
        self.database.declare_queue("q", QueueOptions())

    @rule()
    def enter(self) -> None:
        if len(self.until) < 3:
            self.until[enter(self.database)] = self.clock.time + LEASE_S

    @rule(priorities=st.lists(st.integers(0, 9), min_size=1, max_size=4))
    def put(self, priorities: list[int]) -> None:
        posts = []
        for priority in priorities:
            posts.append(post(str(self.numbers), priority))
            self.waiting.append((-priority, self.numbers))
            self.numbers += 1
        self.database.put(posts)
        self.waiting.sort()

    @rule(pick=st.randoms(use_true_random=False))
    def claim(self, pick) -> None:
        if not self.until:
            return
        session = pick.choice(sorted(self.until))
        delivery = self.database.claim("q", session)
        if not self.waiting:
            assert delivery is None
            return
        key = self.waiting.pop(0)
        assert delivery is not None
        assert delivery.body == str(key[1])
        assert delivery.owner == session
        self.held[key[1]] = (session, key, delivery)

    @rule(pick=st.randoms(use_true_random=False), requeue=st.booleans())
    def settle(self, pick, requeue: bool) -> None:
        if not self.held:
            return
        number = pick.choice(sorted(self.held))
        _, key, delivery = self.held.pop(number)
        if requeue:
            self.database.requeue([delivery])
            self.waiting.append(key)
            self.waiting.sort()
        else:
            assert self.database.ack(delivery)
        self.stale.append(delivery)

    @rule(pick=st.randoms(use_true_random=False), requeue=st.booleans())
    def settle_stale(self, pick, requeue: bool) -> None:
        if not self.stale:
            return
        delivery = pick.choice(self.stale)
        if requeue:
            self.database.requeue([delivery])
        else:
            assert not self.database.ack(delivery)

    @rule(pick=st.randoms(use_true_random=False))
    def renew(self, pick) -> None:
        if self.until:
            session = pick.choice(sorted(self.until))
            assert self.database.renew(session)
            self.until[session] = self.clock.time + LEASE_S

    @rule(seconds=st.floats(0.1, 4.0))
    def time_passes(self, seconds: float) -> None:
        self.clock.time += seconds

    @rule()
    def date_is_set(self) -> None:
        self.clock.date += 1e7

    @rule()
    def sweep(self) -> None:
        watcher = enter(self.database)
        found = lapsed(self.database, watcher)
        assert sorted(found) == sorted(s for s, until in self.until.items() if until <= self.clock.time)
        self.bury(found)
        self.database.bury([watcher])

    @rule()
    def reboot(self) -> None:
        self.database.file.close()
        self.clock.boot += "x"
        self.clock.time = 1.0
        self.database = self.open()
        watcher = enter(self.database)
        assert sorted(lapsed(self.database, watcher)) == sorted(self.until)
        self.bury(list(self.until))
        self.database.bury([watcher])

    @rule()
    def reopen(self) -> None:
        self.database.file.close()
        self.database = self.open()

    def bury(self, sessions: list[int]) -> None:
        self.database.bury(sessions)
        for number, (session, key, delivery) in list(self.held.items()):
            if session in sessions:
                del self.held[number]
                self.stale.append(delivery)
                self.waiting.append(key)
        self.waiting.sort()
        for session in sessions:
            del self.until[session]
            assert not self.database.renew(session)
            assert self.database.claim("q", session) is None

    @invariant()
    def nothing_vanishes_and_each_has_one_owner(self) -> None:
        rows = self.database.file.run("SELECT CAST(body AS INTEGER), owner FROM message")
        assert {number: owner for number, owner in rows if owner is None} == {n: None for _, n in self.waiting}
        assert {number: owner for number, owner in rows if owner is not None} == {
            number: session for number, (session, _, _) in self.held.items()
        }


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
