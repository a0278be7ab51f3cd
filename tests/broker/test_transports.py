"""Which brokers are refused, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdshort.jobs import Settings
from holdshort.jobs.broker.broker import Broker
from holdshort.jobs.broker.transports import transport
from holdshort.storage.errors import BrokerError, BrokerRefused


def _settings(tmp_path: Path, broker: str, **more: Any) -> Settings:
    return Settings(broker=broker, store=str(tmp_path), **more)


@pytest.mark.parametrize(
    ("broker", "reason"),
    [
        ("memory://", "one process only"),
        ("filesystem://", "loses the message of a killed worker"),
        ("sqla+sqlite:///x.db", "ignores priorities"),
        ("sqs://", "no priorities"),
        ("kafkaesque://x", "not known to keep"),
        ("/just/a/path", "HOLDSHORT_BROKER"),
    ],
)
def test_a_broker_that_would_break_a_promise_is_refused_with_the_reason(
    broker: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(BrokerRefused, match=reason):
        transport(_settings(tmp_path, broker))


def test_a_quantum_that_rabbitmq_would_cut_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BrokerRefused, match="quantum_s is 1200"):
        transport(_settings(tmp_path, "amqp://localhost", quantum_s=1200.0))
    assert transport(_settings(tmp_path, "redis://localhost", quantum_s=1200.0)).name == "redis"


def test_nine_is_the_most_urgent_on_every_broker(tmp_path: Path) -> None:
    assert [transport(_settings(tmp_path, "redis://x")).priority(p) for p in range(10)] == list(range(9, -1, -1))
    assert [transport(_settings(tmp_path, "amqp://x")).priority(p) for p in range(10)] == list(range(10))
    assert [transport(_settings(tmp_path, "embedded:///x")).priority(p) for p in range(10)] == list(range(10))


def test_an_embedded_broker_in_a_folder_that_is_not_there_says_so(tmp_path: Path) -> None:
    broker = Broker(_settings(tmp_path, f"embedded://{tmp_path}/none/broker.db"))
    with pytest.raises(BrokerError, match="none"):
        broker.check()


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    broker = Broker(_settings(tmp_path, "amqp://ana:s3cret@127.0.0.1:1//"), connect_timeout_s=0.5)
    with pytest.raises(BrokerError) as caught:
        broker.check()
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in broker.safe_url
