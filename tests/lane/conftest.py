"""Hosts that share a store and a broker, each with lane maps of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdshort.jobs import Settings
from support.brokers import Broker
from support.holdshort import settings_for
from support.lane_hosts import Host


@pytest.fixture
def make_host(tmp_path: Path) -> Iterator[Callable[[str, Settings], Host]]:
    """Makes hosts; their processes end with the test."""
    made: list[Host] = []

    def make(name: str, settings: Settings) -> Host:
        host = Host(name, settings, tmp_path / name)
        made.append(host)
        return host

    try:
        yield make
    finally:
        for host in made:
            host.end()
            print(host.logs())  # pytest shows it for a failing test only


@pytest.fixture
def hosts(make_host: Callable[[str, Settings], Host], tmp_path: Path, broker: Broker) -> tuple[Host, Host]:
    """Two hosts on each broker in turn."""
    settings = settings_for(tmp_path, broker.url)
    return make_host("a", settings), make_host("b", settings)


@pytest.fixture
def redis_hosts(make_host: Callable[[str, Settings], Host], tmp_path: Path, redis_broker: Broker) -> tuple[Host, Host]:
    """Two hosts on Redis, for what does not depend on the broker."""
    settings = settings_for(tmp_path, redis_broker.url)
    return make_host("a", settings), make_host("b", settings)


@pytest.fixture(params=["rabbitmq", "redis"])
def server(request: pytest.FixtureRequest) -> Broker:
    """Each of the brokers that are servers; whoever kills it starts it again."""
    return request.getfixturevalue(f"{request.param}_broker")
