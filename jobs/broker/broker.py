"""Publishing to, and looking at, the broker. Workers consume through Celery (holdshort.workers)."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar, cast

from ...storage.errors import BrokerRefused, BrokerUnavailable, MissingExtra
from ..settings import Settings
from .message import TASK, Message
from .transports import EMBEDDED, Transport, transport

log = logging.getLogger(__name__)

_R = TypeVar("_R")
_NO_EMBED: dict[str, None] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def queue_name(pool: str) -> str:
    """The queue of a pool."""
    return f"holdshort.{pool}"


class Broker:
    """A connection to the configured broker, for publishing; safe to share between threads.

    It connects at first use and again after an error.

    Args:
        settings: the broker's URL and how soon messages of dead workers come back.
        connect_timeout_s: how long to wait for a broker that does not answer.
    """

    def __init__(self, settings: Settings, *, connect_timeout_s: float = 4.0) -> None:
        self.url = settings.broker
        self.transport: Transport = transport(settings)
        self._timeout_s = connect_timeout_s
        self._lock = threading.RLock()
        self._connection: Any = None
        self._producer: Any = None
        self._declared: set[str] = set()
        self._origin = f"{socket.gethostname()}"

    @property
    def safe_url(self) -> str:
        """The URL without a password."""
        from kombu.utils.url import maybe_sanitize_url

        return str(maybe_sanitize_url(self.url))

    def publish(self, messages: Iterable[Message]) -> None:
        """Publish messages and wait until the broker has them. Raises BrokerUnavailable.

        After an error some may have been published; a copy of a message does no harm.
        """
        batch = list(messages)
        self._do(lambda: self._publish(batch))

    def depth(self, pool: str) -> int:
        """Messages waiting in a pool's queue, without those in a worker's hand. Raises BrokerUnavailable."""
        return self._do(lambda: self._depth(pool))

    def purge(self, pool: str) -> int:
        """Drop all waiting messages of a pool; returns how many. The ledger can rebuild them (`recover`)."""

        def purge() -> int:
            queue = self.queue(pool)(self._producer.channel)
            self._declare(pool)
            return int(queue.purge() or 0)

        return self._do(purge)

    def check(self) -> None:
        """Raise BrokerUnavailable if the broker does not answer."""
        self._do(lambda: None)

    def queue(self, pool: str) -> Any:
        """A pool's queue as kombu declares it; the same for publishers and workers."""
        from kombu import Exchange, Queue

        # The default exchange routes by queue name and needs no binding.
        return Queue(
            queue_name(pool),
            Exchange("", type="direct"),
            routing_key=queue_name(pool),
            durable=True,
            queue_arguments=dict(self.transport.queue_arguments) or None,
        )

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        with self._lock:
            self._drop()

    # -- inside ------------------------------------------------------------------------------------------

    def _publish(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._declare(message.pool)
            # Celery's message protocol, version 2, written here so that publishing needs no Celery app:
            # https://docs.celeryq.dev/en/stable/internals/protocol.html
            self._producer.publish(
                [message.arguments(), {}, _NO_EMBED],
                routing_key=queue_name(message.pool),
                exchange="",
                serializer="json",
                delivery_mode=2,
                priority=self.transport.priority(message.priority),
                correlation_id=message.name,
                headers={
                    "lang": "py",
                    "task": TASK,
                    "id": message.name,
                    "root_id": message.name,
                    "parent_id": None,
                    "group": None,
                    "origin": self._origin,
                    "ignore_result": True,
                },
            )

    def _depth(self, pool: str) -> int:
        # Declaring again is how every broker tells the count; asking passively fails on Redis for an empty queue.
        return int(self.queue(pool)(self._producer.channel).queue_declare().message_count)

    def _declare(self, pool: str) -> None:
        if pool not in self._declared:
            self.queue(pool)(self._producer.channel).declare()
            self._declared.add(pool)

    def _do(self, act: Callable[[], _R]) -> _R:
        with self._lock:
            was_connected = self._producer is not None
            try:
                self._connect()
                return act()
            except self._errors() as first:
                if not was_connected:
                    self._drop()
                    raise self._unavailable(first) from first
                log.info("broker %s: %s; connecting anew", self.safe_url, first)
                self._drop()
            try:
                self._connect()
                return act()
            except self._errors() as error:
                self._drop()
                raise self._unavailable(error) from error

    def _unavailable(self, error: BaseException) -> BrokerUnavailable:
        why = (str(error) or type(error).__name__).rstrip(".")
        return BrokerUnavailable(
            f"The broker {self.safe_url} does not answer: {why}. Check that it runs and that HOLDSHORT_BROKER names it."
        )

    def _errors(self) -> tuple[type[BaseException], ...]:
        from kombu.exceptions import OperationalError

        errors: tuple[type[BaseException], ...] = (OperationalError, OSError)
        if self._connection is not None:
            errors += cast("tuple[type[BaseException], ...]", self._connection.recoverable_connection_errors)
            errors += cast("tuple[type[BaseException], ...]", self._connection.recoverable_channel_errors)
        return errors

    def _connect(self) -> None:
        if self._producer is not None:
            return
        try:
            self._connection = connection(
                self.url,
                self.transport,
                connect_timeout=self._timeout_s,
            )
            self._connection.connect()
            self._producer = self._connection.Producer(auto_declare=False)
        except (ImportError, AttributeError) as error:
            # kombu sets `redis` to None when the client is missing.
            if self.transport.name == "redis":
                raise MissingExtra("a broker on redis://", extra="redis", module="redis") from error
            raise
        except ValueError as error:
            self._connection = None
            raise BrokerRefused(f"The broker URL {self.safe_url} can't be used: {error}") from error

    def _drop(self) -> None:
        self._declared.clear()
        self._producer = None
        if self._connection is not None:
            with suppress(Exception):  # it is being thrown away because it is broken
                self._connection.collapse() if hasattr(self._connection, "collapse") else self._connection.close()
        self._connection = None


def connection(url: str, ways: Transport, **options: Any) -> Any:
    """A kombu connection with a broker's own ways."""
    from kombu import Connection

    if ways.name == EMBEDDED:
        from . import embedded

        embedded.register()
    return Connection(url, transport_options=dict(ways.options), **options)
