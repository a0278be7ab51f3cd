"""The exchange on the broker by which lane signals reach other hosts."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, cast

from ...jobs.broker.broker import connection
from ...jobs.broker.transports import EMBEDDED, transport
from ...jobs.settings import Settings
from ...storage.errors import BrokerRefused, BrokerUnavailable, MissingExtra
from . import wire
from .place import LanePlace

log = logging.getLogger(__name__)

EXCHANGE = "holdshort.lane"
_ANSWER_S = 2.0
"""A broker that takes longer over anything counts as away."""
_STALE_S = 2.0
"""What a receiver has not taken by then is dropped: newer words have come meanwhile."""
_MOST_WAITING = 1000
_IN_HAND = 100
_EXPIRES_S = 60.0
_UNREADABLE = b""


def is_on(settings: Settings) -> bool:
    """Whether lane signals cross hosts: as set, else on every broker that several hosts can share."""
    if settings.lane_fanout is not None:
        return settings.lane_fanout
    return transport(settings).name != EMBEDDED


def announce_dismissal(settings: Settings, pool: str, source: str) -> None:
    """Let every host's relay dismiss the source of that name, if it is silent there. Raises BrokerUnavailable."""
    store = LanePlace.of(settings).folder.name
    with Fanout(settings) as fanout:
        fanout.say(wire.Dismissal(store=store, pool=pool, source=source))


class Fanout:
    """A connection to the exchange; for one thread. Also a context manager.

    Nothing is kept for anybody: a message goes to those who hear at the moment, and waits for a slow one only so long.

    Args:
        hears: whether to receive; each receiver has a queue of its own, which goes with the connection.

    Raises:
        BrokerUnavailable: from every method but `close`; the connection is of no more use then.
        BrokerRefused, MissingExtra: the URL can't be used, or the broker's client is not installed.
    """

    def __init__(self, settings: Settings, *, hears: bool = False) -> None:
        from kombu import Exchange

        ways = transport(settings)
        self._is_amqp = ways.name == "amqp"
        self._ways = replace(ways, options={**ways.options, **_quick(ways.name, hears=hears)})
        self._url = settings.broker
        self._exchange = Exchange(EXCHANGE, type="fanout", durable=False, auto_delete=False, delivery_mode=1)
        self._heard: list[bytes | str] = []
        self._connection: Any = None
        try:
            with self._explained():
                self._open(hears)
        except BaseException:
            self.close()
            raise

    def say(self, text: wire.Text) -> None:
        """Send a text to all who hear now; returns when the broker has it."""
        with self._explained():
            self._producer.publish(
                wire.encode(text),
                content_type="application/json",
                content_encoding="utf-8",
                exchange=self._exchange,
                retry=False,
                timeout=_ANSWER_S,
                confirm_timeout=_ANSWER_S,
            )

    def hear(self, timeout_s: float) -> list[bytes | str]:
        """What has come, waiting so long for the first; may be empty."""
        with self._explained():
            try:
                self._connection.drain_events(timeout=timeout_s)
            except TimeoutError as error:
                if error.errno is not None:  # the connection's own, not our waiting
                    raise
            except (LookupError, TypeError, ValueError) as error:
                # Not even an envelope of kombu's: somebody else writes to our exchange.
                log.debug("unreadable envelope: %r", error)
                self._heard.append(_UNREADABLE)
        heard, self._heard = self._heard, []
        return heard

    def close(self) -> None:
        """Close the connection, and with it the queue."""
        if self._connection is not None:
            with suppress(Exception):  # it may be closed because it is broken
                if self._is_amqp and self._connection.connected:
                    # As a whole: amqp warns of each message that comes while only its channel is being closed.
                    self._connection.transport.close_connection(self._connection.connection)
            with suppress(Exception):
                self._connection.release()
        self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- inside ------------------------------------------------------------------------------------------

    def _open(self, hears: bool) -> None:
        try:
            # The broker ends a connection that is silent for twice this; ours say something each second.
            self._connection = connection(self._url, self._ways, connect_timeout=_ANSWER_S, heartbeat=10)
            # One try: `connect` sleeps for two seconds between two of them.
            self._connection.ensure_connection(max_retries=1, interval_start=0, timeout=0.001)
            channel = self._connection.default_channel
            self._producer: Any = self._connection.Producer(channel, auto_declare=False)
            self._exchange(channel).declare()
            if hears:
                self._listen(channel)
        except (ImportError, AttributeError) as error:
            # kombu sets `redis` to None when the client is missing.
            if self._ways.name == "redis":
                raise MissingExtra("a broker on redis://", extra="redis", module="redis") from error
            raise
        except ValueError as error:
            raise BrokerRefused(f"The broker URL can't be used for lane signals: {error}") from error

    def _listen(self, channel: Any) -> None:
        from kombu import Consumer, Queue

        queue = Queue(
            f"{EXCHANGE}.{secrets.token_hex(8)}",
            self._exchange,
            durable=False,
            exclusive=True,
            auto_delete=True,
            expires=_EXPIRES_S,
            message_ttl=_STALE_S,
            max_length=_MOST_WAITING,
            # A virtual host may make quorum queues by default, which can't be exclusive.
            queue_arguments={"x-queue-type": "classic"} if self._is_amqp else None,
        )
        consumer = Consumer(
            channel, [queue], on_message=self._take, on_decode_error=self._undecoded, no_ack=not self._is_amqp
        )
        if self._is_amqp:
            consumer.qos(prefetch_count=_IN_HAND)
        consumer.consume()

    def _take(self, message: Any) -> None:
        if self._is_amqp:
            message.ack()
        self._heard.append(message.body)

    def _undecoded(self, message: Any, error: Exception) -> None:
        log.debug("undecoded message: %r", error)
        if self._is_amqp:
            message.ack()
        self._heard.append(_UNREADABLE)

    @contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except Exception as error:
            if not isinstance(error, self._errors()):
                raise
            why = (str(error) or type(error).__name__).rstrip(".")
            raise BrokerUnavailable(f"Lane signals can't cross hosts: the broker does not answer ({why}).") from error

    def _errors(self) -> tuple[type[BaseException], ...]:
        from kombu.exceptions import OperationalError

        errors: tuple[type[BaseException], ...] = (OperationalError, OSError)
        if self._connection is not None:
            errors += cast("tuple[type[BaseException], ...]", self._connection.connection_errors)
            errors += cast("tuple[type[BaseException], ...]", self._connection.channel_errors)
        return errors


def _quick(broker: str, *, hears: bool) -> dict[str, Any]:
    """Transport options by which a broker that is away is noticed soon."""
    match broker:
        case "amqp":
            # A receiver hears its own echo, so needs no confirms; while one is awaited, no other message is taken.
            return {"confirm_publish": not hears, "read_timeout": _ANSWER_S, "write_timeout": _ANSWER_S}
        case "redis":
            return {"socket_timeout": _ANSWER_S, "socket_connect_timeout": _ANSWER_S}
        case _:
            return {}
