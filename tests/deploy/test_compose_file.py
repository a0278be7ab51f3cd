"""What docker-compose.yml says, by the real compose program."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer

from holdshort.cli.app import app
from holdshort.jobs.settings import GatewaySettings, Settings
from holdshort.workers.serve import GRACE_S
from support.composing import EXAMPLE, FILE, Compose

ALWAYS = {"rabbitmq", "store", "init", "controller", "trigger"}
CPU = {"weights", "model", "gateway", "worker"}
GPU = {"model-gpu", "gateway-gpu", "worker-gpu"}
ONE_SHOT = {"init", "weights"}
NOT_OURS = {"rabbitmq", "store", "model-gpu"}
PROFILES = [(), ("cpu",), ("gpu",), ("cpu", "gpu")]


@pytest.fixture(scope="session")
def services(compose: Compose) -> dict[str, Any]:
    """All services, with every profile."""
    return compose.services("cpu", "gpu")


@pytest.fixture(scope="session")
def ours(services: dict[str, Any]) -> dict[str, Any]:
    """Those that run our own image."""
    return {name: service for name, service in services.items() if name not in NOT_OURS}


@pytest.mark.parametrize("profiles", PROFILES)
def test_compose_takes_the_file_with_every_profile(compose: Compose, profiles: tuple[str, ...]) -> None:
    assert compose.check(*profiles) == ""
    wanted = ALWAYS | (CPU if "cpu" in profiles else set()) | (GPU if "gpu" in profiles else set())
    assert set(compose.services(*profiles)) == wanted


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("condition: service_healthy", "condition: healthy", "condition"),
        ("    healthcheck:", "    healthchek:", "healthchek"),
        ("init: { condition", "innit: { condition", "innit"),
        ("capabilities: [gpu]", "capabilities: gpu", "capabilities"),
    ],
)
def test_compose_refuses_a_broken_copy(
    compose: Compose, tmp_path: Path, right: str, wrong: str, complaint: str
) -> None:
    text = FILE.read_text()
    assert right in text
    copy = tmp_path / "docker-compose.yml"
    copy.write_text(text.replace(right, wrong))
    assert complaint in compose.check("cpu", "gpu", file=copy)


def test_the_example_shows_every_variable_and_its_default(compose: Compose) -> None:
    without = compose.config("cpu")
    assert compose.config(env_file=EXAMPLE) == without
    shown = set(re.findall(r"^([A-Z_]+)=", EXAMPLE.read_text(), re.MULTILINE))
    assert shown == {"COMPOSE_PROFILES", *re.findall(r"\$\{([A-Z_]+)", FILE.read_text())}
    assert "LOCAL DEVELOPMENT ONLY" in EXAMPLE.read_text()
    assert "LOCAL DEVELOPMENT ONLY" in FILE.read_text()


def test_passwords_come_from_the_environment_and_agree(compose: Compose) -> None:
    changed = compose.services("cpu", "gpu", RABBITMQ_PASSWORD="rabbit-1", STORE_KEY="key-1", STORE_SECRET="secret-1")
    assert changed["rabbitmq"]["environment"]["RABBITMQ_DEFAULT_PASS"] == "rabbit-1"
    assert changed["store"]["environment"]["AWS_SECRET_ACCESS_KEY"] == "secret-1"
    for name in {"init", "controller", "trigger", "gateway", "worker", "gateway-gpu", "worker-gpu"}:
        environment = changed[name]["environment"]
        assert environment["HOLDSHORT_BROKER"] == "amqp://holdshort:rabbit-1@rabbitmq:5672/holdshort"
        assert environment["AWS_ACCESS_KEY_ID"] == "key-1"
        assert environment["AWS_SECRET_ACCESS_KEY"] == "secret-1"


def test_whatever_keeps_running_has_a_health_check(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if name not in ONE_SHOT:
            assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
            assert service["restart"] == "unless-stopped", name
        else:
            assert service["restart"] == "no", name


def test_ports_are_published_on_loopback_only(services: dict[str, Any]) -> None:
    ports = [(name, port) for name, service in services.items() for port in service.get("ports", [])]
    assert {name for name, _ in ports} == {"rabbitmq", "store", "gateway", "gateway-gpu"}
    for name, port in ports:
        assert port["host_ip"] == "127.0.0.1", name
    published = [port["published"] for _, port in ports]
    assert len(set(published)) == len(published)


def test_every_image_is_pinned_by_a_tag(services: dict[str, Any]) -> None:
    for name, service in services.items():
        _, _, tag = service["image"].rpartition("/")[2].partition(":")
        assert re.search(r"\d", tag), f"{name}: {service['image']}"


def test_only_what_computes_on_a_gpu_reserves_one(services: dict[str, Any]) -> None:
    def devices(service: dict[str, Any]) -> list[Any]:
        return service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])

    reserved = {name: devices(service) for name, service in services.items() if devices(service)}
    assert set(reserved) == {"model-gpu", "worker-gpu"}
    for found in reserved.values():
        assert found == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]


def test_no_container_can_gain_privileges(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["cap_drop"] == ["ALL"], name
        assert not service.get("privileged"), name


def test_our_containers_are_one_plain_user_on_a_read_only_disk(ours: dict[str, Any]) -> None:
    assert len({service["user"] for service in ours.values()}) == 1
    for name, service in ours.items():
        assert int(service["user"].partition(":")[0]) > 0, name
        assert service["read_only"] is True, name
        assert service["mem_limit"], name
        assert "cap_add" not in service, name


def test_logs_are_bounded(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}, name


def test_everything_waits_for_what_it_needs(services: dict[str, Any]) -> None:
    def needs(name: str) -> dict[str, str]:
        return {other: how["condition"] for other, how in services[name].get("depends_on", {}).items()}

    healthy, done = "service_healthy", "service_completed_successfully"
    assert needs("init") == {"rabbitmq": healthy, "store": healthy}
    for name in ("controller", "trigger", "worker", "worker-gpu"):
        assert needs(name) == {"init": done}
    assert needs("model") == {"weights": done}
    assert needs("gateway") == {"init": done, "model": healthy}
    assert needs("gateway-gpu") == {"init": done, "model-gpu": healthy}
    assert needs("weights") == {}


def test_there_is_time_to_leave_in_order(ours: dict[str, Any], services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["stop_signal"] == "SIGTERM", name
        assert service["init"] is True, name
    drain_s = GatewaySettings.model_fields["drain_timeout_s"].default
    for suffix in ("", "-gpu"):
        assert _seconds(ours[f"worker{suffix}"]["stop_grace_period"]) > GRACE_S
        assert _seconds(ours[f"gateway{suffix}"]["stop_grace_period"]) > drain_s


@pytest.mark.parametrize("suffix", ["", "-gpu"])
def test_gateway_and_worker_share_one_lane_folder_in_memory(
    compose: Compose, services: dict[str, Any], suffix: str
) -> None:
    for name in (f"gateway{suffix}", f"worker{suffix}"):
        service = services[name]
        folder = service["environment"]["HOLDSHORT_LANE_FOLDER"]
        (mount,) = [volume for volume in service["volumes"] if volume["target"] == folder]
        assert (mount["type"], mount["source"]) == ("volume", "lane")
        # What the image has in that place would bring its own owner and mode.
        assert mount["volume"]["nocopy"] is True
    options = compose.config("cpu", "gpu")["volumes"]["lane"]["driver_opts"]
    assert options["type"] == "tmpfs"
    user = services[f"worker{suffix}"]["user"].partition(":")[0]
    assert {"mode=0700", f"uid={user}", f"gid={user}"} <= set(options["o"].split(","))


@pytest.mark.parametrize("suffix", ["", "-gpu"])
def test_a_gateway_raises_the_lane_of_the_pool_that_shares_its_machine(services: dict[str, Any], suffix: str) -> None:
    command = services[f"gateway{suffix}"]["command"]
    assert command[command.index("--pool") + 1] == services[f"worker{suffix}"]["command"][1]
    assert command[command.index("--upstream") + 1] == f"http://model{suffix}:8000"


@pytest.mark.parametrize("name", ["init", "controller", "trigger", "gateway", "worker", "gateway-gpu", "worker-gpu"])
def test_the_settings_of_every_service_can_be_loaded(services: dict[str, Any], name: str) -> None:
    environment = dict(services[name]["environment"])
    (mount,) = [volume for volume in services[name]["volumes"] if volume["target"] == "/etc/holdshort"]
    assert mount["read_only"] is True
    environment["HOLDSHORT_CONFIG"] = environment["HOLDSHORT_CONFIG"].replace("/etc/holdshort", mount["source"])
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HOLDSHORT_")}
    with mock.patch.dict(os.environ, {**clean, **environment}, clear=True):
        settings = Settings.load()
    assert settings.store.startswith("s3://")
    assert settings.broker.startswith("amqp://holdshort:")
    assert str(settings.lane_folder) == environment["HOLDSHORT_LANE_FOLDER"]
    for pool in _pools(services[name]["command"]):
        settings.pool(pool)


@pytest.mark.parametrize("name", sorted((ALWAYS | CPU | GPU) - NOT_OURS - {"init"}))
def test_every_command_line_is_one_that_our_program_takes(services: dict[str, Any], name: str, tmp_path: Path) -> None:
    assert services[name].get("entrypoint") is None
    _parse([str(tmp_path) if word == "/inbox" else word for word in services[name]["command"]])


@pytest.mark.parametrize("wrong", [["wroker", "embed"], ["worker"], ["worker", "embed", "--metric", "0.0.0.0:9100"]])
def test_a_wrong_command_line_would_be_noticed(wrong: list[str]) -> None:
    with pytest.raises(Exception, match=r"(?i)no such|missing"):
        _parse(wrong)


@pytest.mark.parametrize(("inbox", "kind"), [("inbox", "volume"), ("./inbox", "bind")])
def test_the_inbox_is_a_volume_or_a_folder(compose: Compose, inbox: str, kind: str) -> None:
    volumes = compose.services(INBOX=inbox)["trigger"]["volumes"]
    assert [volume["type"] for volume in volumes if volume["target"] == "/inbox"] == [kind]


def _pools(command: list[str]) -> list[str]:
    """The pools that a command line names."""
    named = [command[index + 1] for index, word in enumerate(command) if word == "--pool"]
    return [command[1]] if command[0] == "worker" else named


def _parse(words: list[str]) -> None:
    """Parse a command line as our program would, without running it."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("holdshort", [*words], resilient_parsing=True)
    while hasattr(command, "resolve_command"):
        context.resilient_parsing = False
        name, command, words = command.resolve_command(context, words)
        inner = {"resilient_parsing": True} if hasattr(command, "resolve_command") else {}
        context = command.make_context(name, [*words], parent=context, **inner)


def _seconds(text: str) -> float:
    parts = re.findall(r"(\d+)([hms])", text)
    return sum(int(number) * {"h": 3600, "m": 60, "s": 1}[unit] for number, unit in parts)
