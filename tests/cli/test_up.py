"""`holdshort up`: everything on one machine, kept alive, and gone without a trace when told to leave."""

from __future__ import annotations

import json
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from holdshort.jobs import Client, Settings
from holdshort.jobs.settings import PoolSettings
from holdshort.workers.lane.opening import open_sources
from support.brokers import EmbeddedBroker
from support.commands import Commands
from support.holdshort import Process, Processes, settings_for
from support.waiting import eventually


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    broker = EmbeddedBroker(tmp_path / "broker")
    broker.start()
    echo = PoolSettings(engine="function", options={"target": "support.functions:echo"})
    return settings_for(tmp_path, broker.url, pools={"embed": echo, "more": echo})


@pytest.fixture
def up(processes: Processes, tmp_path: Path) -> Process:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "holdshort.toml").write_text(f'watch = [{{ folder = "{tmp_path}/inbox", pool = "embed" }}]\n')
    found = processes.holdshort("up")
    eventually(lambda: found.text().count("serves pool") == 2, timeout=60, what="both workers serve")
    return found


def _workers(up: Process) -> dict[str, psutil.Process]:
    """By pool."""
    found: dict[str, psutil.Process] = {}
    for child in psutil.Process(up.pid).children():
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile
            command = child.cmdline()
            if "worker" in command:
                found[command[command.index("worker") + 1]] = child
    return found


def test_up_serves_what_is_dropped_replaces_a_killed_worker_and_leaves_nothing_behind(
    up: Process, settings: Settings, tmp_path: Path, client: Client
) -> None:
    assert "holdshort is up: pools embed, more" in up.text()
    (tmp_path / "inbox" / "a.jsonl").write_text('{"input": "one"}\n')
    eventually((tmp_path / "inbox" / "done" / "a.jsonl").exists, what="the file is taken")
    (first,) = client.jobs()
    assert client.job(first.id).wait(timeout=30).all_ok
    killed = _workers(up)["embed"]
    killed.kill()
    eventually(
        lambda: (worker := _workers(up).get("embed")) and worker.pid != killed.pid, timeout=30, what="a new worker"
    )
    assert "killed by SIGKILL" in up.text()
    (tmp_path / "inbox" / "b.jsonl").write_text('{"input": "two"}\n')
    eventually((tmp_path / "inbox" / "done" / "b.jsonl").exists, what="the second file is taken")
    for status in list(client.jobs()):
        assert client.job(status.id).wait(timeout=30).all_ok
    children = psutil.Process(up.pid).children(recursive=True)
    up.send(signal.SIGTERM)
    assert up.wait(timeout=40) == 0
    assert not [child for child in children if child.is_running()]
    assert "Traceback" not in up.text()


def test_a_killed_worker_is_replaced_in_a_quiet_moment_of_its_lane(up: Process, settings: Settings) -> None:
    (source,) = open_sources(settings, "gateway", pools=["embed"])
    try:
        source.hold("a live request")
        killed = _workers(up)["embed"]
        killed.kill()
        eventually(lambda: "a new one starts in" in up.text(), what="its end is seen")
        # The other pool's lane is clear: its worker, which is killed later, comes back first.
        other = _workers(up)["more"]
        other.kill()
        eventually(lambda: (new := _workers(up).get("more")) and new.pid != other.pid, timeout=30, what="a new one")
        assert "embed" not in _workers(up)
        source.clear()
        eventually(lambda: (new := _workers(up).get("embed")) and new.pid != killed.pid, timeout=30, what="a new one")
    finally:
        source.close()


def test_workers_do_not_outlive_an_up_that_was_killed(up: Process) -> None:
    children = psutil.Process(up.pid).children(recursive=True)
    assert len(children) >= 2
    up.send(signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def test_up_with_json_says_that_it_started_and_a_watch_folder_that_is_missing_is_refused(
    settings: Settings, tmp_path: Path
) -> None:
    run = Commands(tmp_path, settings)
    (tmp_path / "holdshort.toml").write_text(f'watch = [{{ folder = "{tmp_path}/nowhere", pool = "embed" }}]\n')
    assert "nowhere" in run("up", code=7).err
    (tmp_path / "holdshort.toml").write_text("")
    up = run.start("up", "--json")
    try:
        assert up.stdout is not None
        said = "".join(iter(up.stdout.readline, "}\n")) + "}"
        assert json.loads(said)["pools"] == ["embed", "more"]
        up.send_signal(signal.SIGINT)
        assert up.wait(timeout=40) == 0
    finally:
        up.kill()
        up.communicate()
