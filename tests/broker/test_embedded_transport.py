"""The embedded broker through kombu, within one process."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.exceptions import ChannelError, OperationalError

from holdshort.jobs.broker.embedded import EmbeddedBrokerError, SessionLostError, register, url
from holdshort.jobs.broker.embedded import doorbell as doorbell_module
from holdshort.jobs.broker.embedded.session import SWEEP_S
from support.waiting import eventually

register()

Connect = Callable[..., Connection]


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Connect]:
    """Opens connections to one broker and closes them in the end."""
    connections: list[Connection] = []

    def connect(path: Path = tmp_path / "broker.db", **options: Any) -> Connection:
        connection = Connection(url(path), transport_options=options)
        connection.connect()
        connections.append(connection)
        return connection

    yield connect
    for connection in connections:
        connection.close()


def queue(name: str = "q", **options: Any) -> Queue:
    return Queue(name, Exchange(""), routing_key=name, **options)


def publish(connection: Connection, *bodies: object, to: str = "q", **options: Any) -> None:
    if "content_type" not in options:
        options["serializer"] = "json"
    producer = Producer(connection.default_channel, auto_declare=False)
    for body in bodies:
        producer.publish(body, exchange="", routing_key=to, **options)


def get(connection: Connection, name: str = "q", **options: Any) -> Any:
    return connection.default_channel.basic_get(name, **options)


class Inbox:
    """A consumer that keeps what it gets."""

    def __init__(self, connection: Connection, *queues: Queue, prefetch: int = 0, no_ack: bool = False) -> None:
        self.connection = connection
        self.messages: list[Any] = []
        self.channel = connection.channel()
        self.channel.basic_qos(0, prefetch, False)
        self.consumer = Consumer(
            self.channel, queues or [queue()], on_message=self.messages.append, no_ack=no_ack, accept=["json", "pickle"]
        )
        self.consumer.consume()

    def drain(self, timeout: float = 5.0) -> Any:
        self.connection.drain_events(timeout=timeout)
        return self.messages[-1]

    def drain_all(self) -> list[Any]:
        while True:
            try:
                self.connection.drain_events(timeout=0)
            except TimeoutError:
                return [message.payload for message in self.messages]


# -- messages --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [{"a": ["ä", 1]}, "text", ""])
def test_a_message_arrives_as_it_was_sent(connect: Connect, body: object) -> None:
    publish(connect(), body, headers={"at": datetime(2026, 1, 2, tzinfo=UTC), "n": 1}, correlation_id="c", priority=4)
    message = get(connect())
    assert message.payload == body
    assert message.headers == {"at": datetime(2026, 1, 2, tzinfo=UTC), "n": 1}
    assert message.properties["correlation_id"] == "c"
    assert message.properties["priority"] == 4
    assert message.delivery_info == {"exchange": "", "routing_key": "q", "redelivered": False}


def test_bytes_are_stored_as_they_are(connect: Connect) -> None:
    data = bytes(range(256))
    publish(connect(), data, content_type="application/data", content_encoding="binary")
    assert get(connect()).body == data


def test_nine_is_the_most_urgent_and_no_priority_counts_as_zero(connect: Connect) -> None:
    connection = connect()
    for priority in (3, 9, 0, 12, -4):
        publish(connection, priority, priority=priority)
    publish(connection, "none")
    assert Inbox(connection).drain_all() == [9, 12, 3, 0, -4, "none"]


def test_only_prefetched_messages_are_taken(connect: Connect) -> None:
    connection = connect()
    publish(connection, *range(5))
    inbox = Inbox(connection, prefetch=2)
    assert inbox.drain_all() == [0, 1]
    assert connection.default_channel.queue_declare("q", passive=True).message_count == 3
    inbox.messages[0].ack()
    assert inbox.drain_all() == [0, 1, 2]


def test_rejecting_drops_or_puts_back_in_place(connect: Connect) -> None:
    connection = connect()
    publish(connection, "a", "b", "c")
    inbox = Inbox(connection, prefetch=1)
    inbox.drain().reject()
    inbox.drain().requeue()
    again = inbox.drain()
    assert again.payload == "b"
    assert again.delivery_info["redelivered"] is True
    assert again.headers["redelivered"] is True
    again.ack()
    assert inbox.drain().payload == "c"


def test_several_are_acknowledged_at_once(connect: Connect) -> None:
    connection = connect()
    publish(connection, *range(4))
    inbox = Inbox(connection)
    inbox.drain_all()
    inbox.messages[2].ack(multiple=True)
    connection.close()
    assert get(connect()).payload == 3
    assert get(connect()) is None


def test_closing_gives_back_what_was_not_acknowledged(connect: Connect) -> None:
    connection = connect()
    publish(connection, "a", "b")
    inbox = Inbox(connection)
    inbox.drain_all()
    inbox.messages[0].ack()
    connection.close()
    message = get(connect())
    assert message.payload == "b"
    assert message.delivery_info["redelivered"] is True


def test_without_acknowledgement_a_message_goes_when_it_is_delivered(connect: Connect) -> None:
    connection = connect()
    publish(connection, "a", "b")
    assert get(connection, no_ack=True).payload == "a"
    assert Inbox(connection, no_ack=True).drain_all() == ["b"]
    connection.close()
    assert get(connect()) is None


def test_a_message_expires(connect: Connect) -> None:
    connection = connect()
    publish(connection, "a", expiration=0.001)
    publish(connection, "b")
    eventually(lambda: get(connection).payload == "b")


def test_a_batch_is_stored_at_once(connect: Connect) -> None:
    connection = connect()
    producer = Producer(connection.default_channel, auto_declare=False, serializer="json")
    assert producer.supports_batch_publish
    with producer.batch() as batch:
        producer.publish("a", exchange="", routing_key="q")
        producer.publish("b", exchange="", routing_key="q")
        assert get(connect()) is None
        batch.flush()
        assert get(connect()).payload == "a"
    with suppress(ZeroDivisionError), producer.batch():
        producer.publish("c", exchange="", routing_key="q")
        raise ZeroDivisionError
    assert Inbox(connect()).drain_all() == ["b"]


# -- routing ---------------------------------------------------------------------------------------------


def test_exchanges_route_across_connections(connect: Connect) -> None:
    one, other, sender = connect(), connect(), connect()
    topic, direct, fanout = Exchange("t", "topic"), Exchange("d", "direct"), Exchange("f", "fanout")
    inbox = Inbox(one, Queue("one", topic, "a.*.c"), Queue("one-d", direct, "k"), Queue("one-f", fanout))
    second = Inbox(other, Queue("two", topic, "a.#"), Queue("two-f", fanout))
    producer = Producer(sender.default_channel, serializer="json")
    for exchange, key in ((topic, "a.b.c"), (topic, "a.x"), (direct, "k"), (direct, "l"), (fanout, "any")):
        producer.publish(f"{exchange.name}:{key}", exchange=exchange, routing_key=key)
    assert sorted(inbox.drain_all()) == ["d:k", "f:any", "t:a.b.c"]
    assert sorted(second.drain_all()) == ["f:any", "t:a.b.c", "t:a.x"]


def test_unbinding_ends_the_routing(connect: Connect) -> None:
    connection = connect()
    bound = Queue("one", Exchange("f", "fanout"))(connection.default_channel)
    bound.declare()
    bound.unbind_from(Exchange("f"), routing_key="")
    Producer(connection.default_channel, serializer="json").publish("a", exchange=Exchange("f", "fanout"))
    assert get(connection, "one") is None


def test_an_exchange_keeps_its_type(connect: Connect) -> None:
    connection, other = connect(), connect()
    Exchange("x", "fanout")(connection.default_channel).declare()
    with pytest.raises(ChannelError, match="declared with type 'fanout' already, not 'topic'"):
        Exchange("x", "topic")(other.default_channel).declare()
    other.default_channel.exchange_declare("x", passive=True)
    with pytest.raises(ChannelError, match="no exchange 'y'"):
        other.default_channel.exchange_declare("y", passive=True)


# -- queues ----------------------------------------------------------------------------------------------


def test_a_passive_declaration_tells_messages_and_consumers(connect: Connect) -> None:
    connection = connect()
    with pytest.raises(ChannelError, match="no queue 'q'"):
        connection.default_channel.queue_declare("q", passive=True)
    Inbox(connection, prefetch=1)
    publish(connection, *range(3))
    assert tuple(connect().default_channel.queue_declare("q", passive=True)) == ("q", 3, 1)


def test_purging_and_deleting(connect: Connect) -> None:
    connection = connect()
    publish(connection, *range(3))
    bound = queue()(connection.default_channel)
    assert bound.purge() == 3
    bound.delete()
    with pytest.raises(ChannelError, match="no queue 'q'"):
        bound.queue_declare(passive=True)


def test_exclusive_and_auto_delete_queues_leave_nothing_behind(connect: Connect) -> None:
    connection, sender = connect(), connect()
    fanout = Exchange("f", "fanout")
    for number in range(3):
        Inbox(
            connection,
            Queue(f"auto-{number}", fanout, auto_delete=True),
            Queue(f"own-{number}", fanout, exclusive=True),
        )
    Producer(sender.default_channel, serializer="json").publish("a", exchange=fanout)
    connection.close()
    Producer(sender.default_channel, serializer="json").publish("b", exchange=fanout)
    database = sender.transport.database
    assert database.bindings("f") == []
    for table in ("message", "queue", "binding", "consumer", "session"):
        assert database.file.run(f"SELECT count(*) FROM {table}") == [(0,)], table


def test_a_reply_queue_expires_with_its_time(connect: Connect) -> None:
    connection = connect()
    bound = queue("reply", expires=0.05, message_ttl=0.01)(connection.default_channel)
    bound.declare()
    publish(connection, "late", to="reply")
    Inbox(connection)  # whoever consumes sweeps
    eventually(lambda: connection.transport.database.file.run("SELECT count(*) FROM queue") == [(1,)])


# -- waking ----------------------------------------------------------------------------------------------


def test_a_waiting_consumer_is_woken_by_a_message(connect: Connect) -> None:
    inbox, sender = Inbox(connect(), prefetch=1), connect()
    waits = []
    for number in range(30):
        entered = threading.Event()

        def drain(number: int = number, entered: threading.Event = entered) -> None:
            entered.set()
            assert inbox.drain().payload == number

        thread = threading.Thread(target=drain)
        thread.start()
        entered.wait()
        eventually(lambda: inbox.connection.transport.session._waiter is not None, every=0.001)
        before = time.perf_counter()
        publish(sender, number)
        thread.join()
        waits.append(time.perf_counter() - before)
        inbox.messages[-1].ack()
    assert sorted(waits)[len(waits) // 2] < 0.1 < SWEEP_S


def test_an_acknowledgement_in_another_thread_wakes_the_consumer(connect: Connect) -> None:
    connection = connect()
    publish(connection, *range(20))
    inbox = Inbox(connection, prefetch=1)
    inbox.drain()
    before = time.perf_counter()
    for number in range(19):
        thread = threading.Thread(target=inbox.messages[number].ack)
        thread.start()
        inbox.drain()
        thread.join()
    assert time.perf_counter() - before < 5 * SWEEP_S
    assert [message.payload for message in inbox.messages] == list(range(20))


def test_time_outs_are_kept(connect: Connect) -> None:
    inbox = Inbox(connect())
    for timeout in (0, 0.05, SWEEP_S * 1.3):
        before = time.monotonic()
        with pytest.raises(TimeoutError):
            inbox.drain(timeout)
        assert timeout <= time.monotonic() - before < timeout + 0.8


def test_a_signal_ends_the_wait_and_the_next(connect: Connect) -> None:
    inbox = Inbox(connect())
    handled: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: handled.append(number))
    try:
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
        start = time.monotonic()
        timer.start()
        for _ in range(2):
            with pytest.raises(TimeoutError):
                inbox.drain(20)
        timer.join()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert handled == [signal.SIGTERM]
    assert time.monotonic() - start < 10
    assert signal.set_wakeup_fd(-1) == -1


def test_a_long_path_has_doorbells_too(connect: Connect, tmp_path: Path) -> None:
    folder = tmp_path / ("long-" * 30)
    folder.mkdir()
    inbox, sender = Inbox(connect(folder / "broker.db")), connect(folder / "broker.db")
    assert inbox.connection.transport.session.bell.name
    assert not sender.transport._ringer.is_dead(inbox.connection.transport.session.bell.name)
    publish(sender, "a")
    assert inbox.drain().payload == "a"


def test_without_sockets_a_consumer_polls(connect: Connect, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "broker.db-bells").write_text("in the way")
    inbox = Inbox(connect())
    assert "this consumer polls instead" in caplog.text
    thread = threading.Timer(0.2, lambda: publish(connect(), "a"))
    thread.start()
    before = time.monotonic()
    assert inbox.drain().payload == "a"
    thread.join()
    assert time.monotonic() - before < SWEEP_S


def test_a_missing_bell_is_no_sign_of_death_and_an_unbound_one_is(connect: Connect, tmp_path: Path) -> None:
    ringer = connect().transport._ringer
    assert not ringer.is_dead("missing")
    folder = tmp_path / "broker.db-bells"
    folder.mkdir(exist_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    bound.bind(str(folder / "bound"))
    assert not ringer.is_dead("bound")
    bound.close()
    assert ringer.is_dead("bound")


def test_socket_files_of_nobody_are_removed(connect: Connect, tmp_path: Path) -> None:
    folder = tmp_path / "broker.db-bells"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stale:
        stale.bind(str(folder / "stale"))
    connection = connect()
    Inbox(connection)
    eventually(lambda: not (folder / "stale").exists())
    assert os.listdir(folder) == [connection.transport.session.bell.name]
    connection.close()
    assert os.listdir(folder) == []


# -- life and death --------------------------------------------------------------------------------------


def test_a_consumer_that_others_buried_must_connect_again(connect: Connect) -> None:
    connection, other = connect(lease_s=0.3), connect()
    publish(connection, "a")
    inbox = Inbox(connection, prefetch=1)
    message = inbox.drain()
    other.transport.database.bury([connection.transport.session.id])
    with pytest.raises(SessionLostError, match="Connect again"):
        inbox.drain(20)
    assert isinstance(SessionLostError(""), connection.connection_errors)
    message.ack()  # too late
    connection.close()
    again = get(other)
    assert (again.payload, again.delivery_info["redelivered"]) == ("a", True)


def test_a_lease_is_renewed_while_a_message_is_held(connect: Connect) -> None:
    connection = connect(lease_s=0.3)
    publish(connection, "a")
    inbox = Inbox(connection, prefetch=1)
    message = inbox.drain()
    other = Inbox(connect(lease_s=0.3))
    with pytest.raises(TimeoutError):
        other.drain(1.2)
    message.ack()
    connection.close()
    assert other.drain_all() == []


def test_an_acknowledgement_that_fails_is_tried_until_it_succeeds(connect: Connect, tmp_path: Path) -> None:
    connection = connect(busy_timeout_s=0.05)
    publish(connection, "a")
    message = Inbox(connection, prefetch=1).drain()
    blocker = sqlite3.connect(tmp_path / "broker.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    message.ack()
    assert blocker.execute("SELECT count(*) FROM message").fetchone() == (1,)
    blocker.execute("ROLLBACK")
    eventually(lambda: blocker.execute("SELECT count(*) FROM message").fetchone() == (0,))
    blocker.close()


def test_a_message_in_hand_after_closing_does_no_harm(connect: Connect) -> None:
    connection = connect()
    publish(connection, "a", "b")
    inbox = Inbox(connection, prefetch=2)
    inbox.drain_all()
    inbox.channel.close()
    inbox.messages[0].ack()
    inbox.messages[1].requeue()
    assert Inbox(connect()).drain_all() == ["a", "b"]


def test_a_broken_file_is_an_operational_error_for_publishers(tmp_path: Path) -> None:
    with Connection(url(tmp_path / "missing" / "broker.db")) as connection:
        with pytest.raises(EmbeddedBrokerError, match=r"folder .*/missing of the broker file broker.db does not exist"):
            connection.connect()
        with pytest.raises(OperationalError, match="does not exist"):
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)


@pytest.mark.parametrize("broken", ["embedded://", "embedded:///", "embedded://relative/broker.db"])
def test_a_url_without_an_absolute_path_is_refused(broken: str) -> None:
    with pytest.raises(ValueError, match="three slashes and an absolute path"):
        Connection(broken).connect()


@pytest.mark.parametrize("options", [{"lease_s": 0}, {"lease_s": "5"}, {"durability": "most"}, {"busy_timeout_s": -1}])
def test_a_wrong_option_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Connection(url(tmp_path / "broker.db"), transport_options=options).connect()


def test_a_url_survives_copies_and_odd_names(connect: Connect, tmp_path: Path) -> None:
    path = tmp_path / "50% of #1 ?.db"
    connection = connect(path)
    publish(connection, "a")
    assert path.exists()
    assert connection.as_uri() == url(path)
    with connection.clone() as copy:
        assert get(copy).payload == "a"


def test_full_durability_reaches_the_disk_at_every_commit(connect: Connect) -> None:
    for durability, level in (("normal", 1), ("full", 2)):
        connection = connect(durability=durability)
        assert connection.transport.database.file.run("PRAGMA synchronous") == [(level,)]


def test_a_doorbell_that_is_full_is_no_error(tmp_path: Path) -> None:
    folder = doorbell_module.BellFolder(str(tmp_path / "bells"))
    bell, ringer = doorbell_module.Doorbell(folder), doorbell_module.Ringer(folder)
    assert bell.name is not None
    for _ in range(2000):
        ringer.ring([bell.name])
        bell.wake()
    assert not bell.wait(0)
    before = time.monotonic()
    assert not bell.wait(0.05)
    assert time.monotonic() - before >= 0.04
    bell.close()
    ringer.close()


def test_what_nothing_is_bound_for_goes_to_the_dead_letter_queue_if_there_is_one(connect: Connect) -> None:
    for options, kept in (({}, 0), ({"deadletter_queue": "dead"}, 1)):
        connection = connect(**options)
        exchange = Exchange("d", "direct")
        producer = Producer(connection.default_channel, exchange, serializer="json")
        if kept:
            with pytest.warns(UserWarning, match="No queues bound"):
                producer.publish("a", routing_key="nowhere")
        else:
            producer.publish("a", routing_key="nowhere")
        assert connection.transport.database.file.run("SELECT count(*) FROM message") == [(kept,)]
