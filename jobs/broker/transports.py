"""What differs between brokers, and which ones can keep the promises.

Elsewhere a priority is 0 to 9 with 9 the most urgent, and an unacknowledged message of a dead worker comes
back within seconds. Here is how each broker is made to do so (facts about kombu 5.7).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ...storage.errors import BrokerRefused
from ..settings import Settings

EMBEDDED = "embedded"

_REFUSED: Mapping[str, str] = {
    "memory": "it exists in one process only",
    "filesystem": "it ignores priorities and loses the message of a killed worker",
    "sqla": "it ignores priorities and loses the message of a killed worker",
    "sqs": "it has no priorities",
    "gcpubsub": "it has no priorities",
    "confluentkafka": "it has no priorities",
    "mongodb": "it loses the message of a killed worker",
}


@dataclass(frozen=True, slots=True)
class Transport:
    """One broker's ways.

    Attributes:
        name: "embedded", "amqp" or "redis".
        inverted: 0 is the most urgent there.
        queue_arguments: with which a pool's queue is declared.
        options: kombu's transport options.
    """

    name: str
    inverted: bool
    queue_arguments: Mapping[str, Any]
    options: Mapping[str, Any]

    def priority(self, priority: int) -> int:
        """A priority as this broker wants it."""
        return 9 - priority if self.inverted else priority


CONSUMER_TIMEOUT_S = 1800.0
"""RabbitMQ takes a message back from a consumer that has held it for so long (its default since 3.8.17)."""


def transport(settings: Settings) -> Transport:
    """The ways of the configured broker. Raises BrokerRefused for one that would break a promise."""
    scheme = urlsplit(settings.broker).scheme
    match scheme.partition("+")[0]:
        case "embedded":
            return Transport(EMBEDDED, inverted=False, queue_arguments={}, options={"lease_s": settings.redelivery_s})
        case "amqp" | "pyamqp" | "amqps":
            _check_quantum(settings)
            # Confirms are off by default, and an unconfirmed message may be lost without a word.
            return Transport(
                "amqp",
                inverted=False,
                # A virtual host may make quorum queues by default, which refuse x-max-priority.
                queue_arguments={"x-queue-type": "classic", "x-max-priority": 9},
                options={"confirm_publish": True},
            )
        case "redis" | "rediss":
            # Redis takes 0 first and keeps four buckets only, unless told otherwise. The worker renews its
            # lease (workers/redis_lease.py), so the time-out may be short; the sweep for lapsed ones runs every second,
            # and its mutex must not outlive a killed sweeper for long.
            return Transport(
                "redis",
                inverted=True,
                queue_arguments={},
                options={
                    "priority_steps": list(range(10)),
                    "queue_order_strategy": "priority",
                    "visibility_timeout": settings.redelivery_s,
                    "unacked_restore_interval": 1,
                    "unacked_restore_throttle": 1,
                    "unacked_mutex_expire": 5,
                    "socket_keepalive": True,
                    "socket_timeout": 20,
                    "socket_connect_timeout": 5,
                },
            )
        case other:
            reason = _REFUSED.get(other, "it is not known to keep priorities and unacknowledged messages")
            raise BrokerRefused(
                f"The broker {other or settings.broker!r}:// can't be used: {reason}. "
                f"Set HOLDSHORT_BROKER to embedded:///path/broker.db, amqp://… or redis://…"
            )


def _check_quantum(settings: Settings) -> None:
    if settings.quantum_s > CONSUMER_TIMEOUT_S / 2:
        raise BrokerRefused(
            f"quantum_s is {settings.quantum_s:g}, but RabbitMQ takes a message back after "
            f"{CONSUMER_TIMEOUT_S:g} s, and a worker may hold one somewhat longer than a quantum. "
            f"Set quantum_s to {CONSUMER_TIMEOUT_S / 2:g} or less."
        )
