"""The kombu transport over `database` and `session`: `embedded:///absolute/path/broker.db`."""

# kombu's virtual transport has no annotations; what comes from it is unknown to a type checker.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingParameterType=false, reportUnknownParameterType=false, reportIncompatibleMethodOverride=false
# pyright: reportIncompatibleVariableOverride=false

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from queue import Empty
from typing import Any, cast
from urllib.parse import quote

from amqp.protocol import queue_declare_ok_t
from kombu.exceptions import ChannelError
from kombu.transport import virtual
from kombu.transport.base import (
    to_rabbitmq_queue_arguments,  # pyright: ignore[reportAttributeAccessIssue] - the stubs lack it
)
from kombu.utils.uuid import uuid

from .clock import SystemClock
from .database import Database, Delivery, Post, QueueOptions
from .doorbell import BellFolder, Ringer
from .envelope import decode, encode
from .errors import EmbeddedBrokerError
from .options import Options, path_of
from .session import SWEEP_S, Session

log = logging.getLogger(__name__)

#: How often a consumer without a doorbell looks for messages, in seconds.
_POLL_S = 0.05


class QoS(virtual.QoS):
    """What a channel holds. Acknowledging and rejecting are allowed in any thread."""

    channel: Channel

    def __init__(self, channel: Channel, prefetch_count: int = 0) -> None:
        super().__init__(channel, prefetch_count)
        self.held: dict[str, tuple[Session, Delivery]] = {}

    def hold(self, session: Session, delivery: Delivery) -> str:
        """Take a claimed message into the account; returns its delivery tag."""
        tag = f"{delivery.id}.{delivery.count}.{delivery.owner}"
        self.held[tag] = (session, delivery)
        return tag

    def can_consume(self) -> bool:
        return not self.prefetch_count or len(self.held) < self.prefetch_count

    def can_consume_max_estimate(self) -> int | None:
        return max(self.prefetch_count - len(self.held), 0) if self.prefetch_count else None

    def append(self, message: virtual.Message, delivery_tag: str) -> None:
        """Nothing to do: `hold` did it at the claim, so that no failure in between loses the message."""

    def get(self, delivery_tag: str) -> Delivery:
        return self.held[delivery_tag][1]

    def ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """Delete a message; with `multiple` also those delivered before it on this channel."""
        if multiple:
            for tag in list(self.held):
                if tag == delivery_tag:
                    break
                self.ack(tag)
        held = self.held.pop(delivery_tag, None)
        if held is None:
            log.info(
                "%s was given back when its channel closed, or is settled; it cannot be acknowledged", delivery_tag
            )
            return
        session, delivery = held
        session.ack(delivery)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Drop a message, or put it back at its place."""
        if not requeue:
            self.ack(delivery_tag)
            return
        held = self.held.pop(delivery_tag, None)
        if held is None:
            log.info("%s was given back when its channel closed, or is settled; it cannot be rejected", delivery_tag)
            return
        session, delivery = held
        session.requeue(delivery)

    def restore_unacked(self) -> list[Any]:
        """Put everything back."""
        while self.held:
            try:
                _, (session, delivery) = self.held.popitem()
            except KeyError:  # another thread acknowledged the last one
                break
            session.release([delivery])
        return []

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Put everything back when the channel closes."""
        self._on_collect.cancel()  # pyright: ignore[reportAttributeAccessIssue] - set by the base's __init__
        self.restore_unacked()


class Channel(virtual.Channel):
    """Translates AMQP's verbs into calls of the database."""

    QoS = QoS
    qos: QoS
    connection: Transport
    exchange_types: dict[str, Any]
    supports_fanout = True
    do_restore = True
    #: Bodies are stored as they are, text or bytes.
    body_encoding: str | None = None
    channel_id: int

    def __init__(self, connection: Transport, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        self._no_ack: set[str] = set()

    # -- publishing ------------------------------------------------------------------------------------

    def basic_publish(self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any) -> None:
        """Route and store a message, and wake its consumers. When it returns, the message is accepted.

        The default exchange makes a queue that does not exist; other exchanges drop what nothing is bound
        for.
        """
        self.connection.put(self.posts(message, exchange, routing_key))

    def create_publish_batch(self, max_size: int) -> PublishBatch:
        return PublishBatch(self, max_size)

    def posts(self, message: dict[str, Any], exchange: str, routing_key: str) -> list[Post]:
        """The message as it goes into each of its queues."""
        properties = message["properties"]
        properties["delivery_info"].update(exchange=exchange, routing_key=routing_key)
        body, encoding = self.encode_body(message["body"], self.body_encoding)
        if encoding:
            properties["body_encoding"] = encoding
        expiration = properties.get("expiration")
        expires_at = None if expiration is None else time.time() + float(expiration) / 1000
        queues: Iterable[str | None] = (
            self._lookup(exchange, routing_key) if exchange else [routing_key or self.deadletter_queue]
        )
        return [
            Post(
                queue,
                self._get_message_priority(message),
                encode(message),
                body,
                expires_at,
                create=not exchange or queue == self.deadletter_queue,
            )
            for queue in queues
            if queue
        ]

    def _lookup(self, exchange: str, routing_key: str, default: str | None = None) -> Iterable[str]:
        type_, table = self.connection.database.routes(exchange)
        queues = self.exchange_types[type_ or "direct"].lookup(table, exchange, routing_key, default)
        if queues or (default or self.deadletter_queue) is None:
            return queues
        return super()._lookup(exchange, routing_key, default)

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        self.connection.put(self.posts(message, "", queue))

    # -- consuming -------------------------------------------------------------------------------------

    def basic_consume(self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **kwargs: Any) -> None:
        """Begin consuming; from now on a message for `queue` wakes this connection."""
        self.connection.session.consume(queue, self._tag(consumer_tag))
        if no_ack:
            self._no_ack.add(queue)
        super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)

    def basic_cancel(self, consumer_tag: str) -> None:
        """Stop consuming. What was delivered can still be acknowledged."""
        queue = self._tag_to_queue.get(consumer_tag)
        super().basic_cancel(consumer_tag)
        if queue is None:
            return
        self._no_ack.discard(queue)
        self.connection.cancel(self._tag(consumer_tag))

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> virtual.Message | None:
        """The next message of a queue, or None."""
        try:
            return self.Message(self._get(queue, no_ack=no_ack), channel=self)
        except Empty:
            return None

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        self.qos.ack(delivery_tag, multiple)

    def _get(self, queue: str, timeout: float | None = None, *, no_ack: bool | None = None) -> dict[str, Any]:
        keep = not (queue in self._no_ack if no_ack is None else no_ack)
        session = self.connection.session
        delivery = session.claim(queue, keep=keep)
        if delivery is None:
            raise Empty
        tag = self.qos.hold(session, delivery) if keep else f"{delivery.id}"
        return decode(delivery, tag)

    def consumers(self) -> Iterator[tuple[str, str]]:
        """(queue, tag) of each consumer of this channel."""
        for tag, queue in self._tag_to_queue.items():
            yield queue, self._tag(tag)

    def _tag(self, consumer_tag: str) -> str:
        return f"{self.channel_id}.{consumer_tag}"

    # -- declaring -------------------------------------------------------------------------------------

    def prepare_queue_arguments(self, arguments: dict[str, Any] | None, **kwargs: Any) -> dict[str, Any] | None:
        return to_rabbitmq_queue_arguments(arguments or {}, **kwargs)

    def queue_declare(self, queue: str | None = None, passive: bool = False, **kwargs: Any) -> queue_declare_ok_t:
        """Make a queue, or with `passive` only look at it (a ChannelError if it is not there)."""
        name = queue or f"amq.gen-{uuid()}"
        database = self.connection.database
        if not passive:
            self._new_queue(name, **kwargs)
        elif not database.has_queue(name):
            raise self._not_found("queue", name)
        return queue_declare_ok_t(name, database.size(name), database.consumer_count(name))

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any) -> None:
        self.connection.database.delete_queue(queue, if_unused=if_unused, if_empty=if_empty)

    def queue_bind(
        self, queue: str, exchange: str | None = None, routing_key: str = "", arguments: Any = None, **kwargs: Any
    ) -> None:
        exchange = exchange or "amq.direct"
        key, pattern, _ = self.typeof(exchange).prepare_bind(queue, exchange, routing_key, arguments)
        if not self.connection.database.bind(queue, exchange, key or "", pattern or ""):
            raise self._not_found("queue", queue)

    def queue_unbind(
        self, queue: str, exchange: str | None = None, routing_key: str = "", arguments: Any = None, **kwargs: Any
    ) -> None:
        self.connection.database.unbind(queue, exchange or "amq.direct", routing_key or "")

    def exchange_declare(
        self,
        exchange: str | None = None,
        type: str = "direct",  # noqa: A002 - kombu's name for it
        durable: bool = False,
        auto_delete: bool = False,
        arguments: Any = None,
        nowait: bool = False,
        passive: bool = False,
    ) -> None:
        """Make an exchange; a ChannelError if it exists with another type."""
        type_ = type or "direct"
        name = exchange or f"amq.{type_}"
        database = self.connection.database
        if passive:
            if database.exchange_type(name) is None:
                raise self._not_found("exchange", name)
            return
        if type_ not in self.exchange_types:
            raise ChannelError(f"The embedded broker has no exchanges of type {type_!r}.", (40, 10), "", 503)
        there = database.declare_exchange(name, type_)
        if there != type_:
            raise ChannelError(
                f"The exchange {name!r} is declared with type {there!r} already, not {type_!r}. Delete it first.",
                (40, 10),
                "Channel.exchange_declare",
                406,
            )

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        self.connection.database.delete_exchange(exchange)

    def typeof(self, exchange: str, default: str = "direct") -> Any:
        return self.exchange_types[self.connection.database.exchange_type(exchange) or default]

    def get_table(self, exchange: str) -> list[tuple[str, str, str]]:
        return self.connection.database.bindings(exchange)

    def get_exchanges(self) -> list[str]:
        return self.connection.database.exchanges()

    def list_bindings(self) -> list[tuple[str, str, str]]:
        return [
            (queue, exchange, key) for exchange in self.get_exchanges() for key, _, queue in self.get_table(exchange)
        ]

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        arguments = kwargs.get("arguments") or {}
        exclusive = bool(kwargs.get("exclusive"))
        self.connection.database.declare_queue(
            queue,
            QueueOptions(
                owner=self.connection.session.id if exclusive else None,
                auto_delete=bool(kwargs.get("auto_delete")),
                expires_s=_seconds(arguments.get("x-expires")),
                message_ttl_s=_seconds(arguments.get("x-message-ttl")),
            ),
        )

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return self.connection.database.has_queue(queue)

    def _size(self, queue: str) -> int:
        return self.connection.database.size(queue)

    def _purge(self, queue: str) -> int:
        return self.connection.database.purge(queue)

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        self.connection.database.delete_queue(queue)

    def _not_found(self, kind: str, name: str) -> ChannelError:
        return ChannelError(f"There is no {kind} {name!r} in {self.connection.path}.", (50, 10), "", 404)


class PublishBatch:
    """Messages of `Producer.batch()`, stored in one transaction per flush."""

    def __init__(self, channel: Channel, max_size: int) -> None:
        self.channel = channel
        self._max_size = max_size
        self._posts: list[Post] = []

    def publish(self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any) -> None:
        self._posts += self.channel.posts(message, exchange, routing_key)
        if len(self._posts) >= self._max_size:
            self.flush()

    def flush(self) -> None:
        """Store what was collected, all or none; on an error it stays collected."""
        if self._posts:
            self.channel.connection.put(self._posts)
            self._posts = []

    def discard(self) -> None:
        self._posts = []

    def close(self) -> None:
        self.discard()


class Transport(virtual.Transport):
    """One connection: a database handle for publishing, and a session once it consumes."""

    Channel = Channel
    can_parse_url = True
    channels: list[Channel]
    cycle: Any
    connection_errors = (*virtual.Transport.connection_errors, EmbeddedBrokerError)
    driver_type = "embedded"
    driver_name = "sqlite3"
    implements = virtual.Transport.implements.extend(
        exchange_type=frozenset({"direct", "topic", "fanout"}), batch_publish=True
    )

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        # Kombu takes the URL apart only where it switches to another one of a list.
        name = cast("str", client.hostname or "")
        self.path = path_of(name if "://" in name else f"//{name}/{quote(client.virtual_host)}")
        self.options = Options.read(client.transport_options or {})
        self.database = Database.at(
            self.path,
            SystemClock(),
            full_sync=self.options.durability == "full",
            busy_timeout_s=self.options.busy_timeout_s,
        )
        self._bells = BellFolder(f"{self.path}-bells")
        self._ringer = Ringer(self._bells)
        self._session: Session | None = None
        self._session_lock = threading.Lock()
        self._session_pid = os.getpid()
        self._hurry = False

    # -- connection ------------------------------------------------------------------------------------

    def establish_connection(self) -> Transport:
        self.database.file.open()
        super().establish_connection()
        return self

    def close_connection(self, connection: Any) -> None:
        """Give back what is held, and close."""
        super().close_connection(connection)
        session, self._session = self._session, None
        if session is not None:
            session.close()
        self._ringer.close()
        self.database.file.close()

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        return uri

    def driver_version(self) -> str:
        return sqlite3.sqlite_version

    @property
    def default_connection_params(self) -> dict[str, Any]:
        return {}

    # -- session ---------------------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        """This process's session, begun when it is first needed; a forked child gets its own."""
        session = self._session
        if session is not None and session.is_mine:
            return session
        if self._session_pid != os.getpid():
            # The parent's other threads are not here to release it.
            self._session_lock = threading.Lock()
            self._session_pid = os.getpid()
        with self._session_lock:
            session = self._session
            if session is None or not session.is_mine:
                session = Session(self.database, self._bells, lease_s=self.options.lease_s)
                for channel in self.channels:
                    for queue, tag in channel.consumers():
                        session.consume(queue, tag)
                self._session = session
            return session

    def cancel(self, tag: str) -> None:
        """Forget a consumer. If the file does not let us, closing the session will."""
        session = self._session
        if session is None or not session.is_mine:
            return
        try:
            session.cancel(tag)
        except EmbeddedBrokerError as error:
            log.warning("cancelling a consumer: %s", error)

    # -- messages --------------------------------------------------------------------------------------

    def put(self, posts: list[Post]) -> None:
        """Store messages and wake those who wait for them."""
        if posts:
            bells = self.database.put(posts)
            if bells:
                self._ringer.ring(bells)

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Deliver one message, waiting for it up to `timeout` seconds (None: for ever).

        Raises socket.timeout if none came. When a signal that usually ends a process was handled, this
        call and the next one do so without waiting, so that the caller can look whether it should stop.
        """
        try:
            self.cycle.get(self._deliver, timeout=timeout)
        except Empty:
            self._wait_and_drain(timeout)

    def _wait_and_drain(self, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        session = self.session
        session.begin_waiting()
        try:
            with session.bell.heeding_signals():
                while True:
                    try:
                        # A look after `begin_waiting`, or what happened just before would go unnoticed.
                        self.cycle.get(self._deliver, timeout=timeout)
                    except Empty:
                        pass
                    else:
                        return
                    session.check()
                    # No ring should ever get lost; should one, it costs no more than a sweep's interval.
                    pause = SWEEP_S if session.bell.name is not None else _POLL_S
                    if deadline is not None:
                        left = deadline - time.monotonic()
                        if left <= 0:
                            raise TimeoutError
                        pause = min(pause, left)
                    if self._hurry or session.wait(pause):
                        # Celery's loop drains once more between its signal handler and its end.
                        self._hurry = not self._hurry
                        raise TimeoutError
        finally:
            session.end_waiting()

    def _reject_inbound_message(self, raw_message: dict[str, Any]) -> None:
        tag = cast("str", raw_message["properties"]["delivery_tag"])
        for channel in self.channels:
            if tag in channel.qos.held:
                channel.basic_reject(tag, requeue=True)
                return


def _seconds(milliseconds: Any) -> float | None:
    return None if milliseconds is None else float(milliseconds) / 1000
