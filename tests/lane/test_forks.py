"""What a fork inherits of the lane, and what not: servers that fork their workers after they were set up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from holdshort.jobs import Settings
from holdshort.workers.lane.place import LanePlace
from holdshort.workers.lane.reader import LaneReader
from support.waiting import eventually

Start = Callable[[str], tuple[subprocess.Popen[str], int, int]]

SERVER = """
import os, sys, time
from holdshort.workers import lane

live = lane.live("chat")
live.begin()                      # the parent has a live request when it forks
child = os.fork()
if child == 0:
    live.begin()                  # and so has the child, later
    print("child", os.getpid(), flush=True)
    if sys.argv[1] == "returns":
        live.end()
    time.sleep(600)
print("parent", os.getpid(), flush=True)
if sys.argv[1] == "returns":
    sys.stdin.readline()
    live.end()
    print("ended", flush=True)
time.sleep(600)
"""


@pytest.fixture
def reader(tmp_path: Path) -> LaneReader:
    settings = Settings.load(store=str(tmp_path / "store"), lane_folder=tmp_path / "lane")
    return LaneReader(LanePlace.of(settings), "embed", signal_loss_timeout_s=600.0)


@pytest.fixture
def server(tmp_path: Path, reader: LaneReader) -> Iterator[Start]:
    """Starts a server that forks; returns it, its process id and its child's."""
    started: list[int] = []
    processes: list[subprocess.Popen[str]] = []

    def start(what: str) -> tuple[subprocess.Popen[str], int, int]:
        environment = {
            **os.environ,
            "HOLDSHORT_STORE": str(tmp_path / "store"),
            "HOLDSHORT_LANE_FOLDER": str(tmp_path / "lane"),
        }
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, what], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment,
        )  # fmt: skip
        processes.append(process)
        assert process.stdout is not None
        pids = dict(process.stdout.readline().split() for _ in range(2))
        started.append(int(pids["child"]))
        return process, int(pids["parent"]), int(pids["child"])

    yield start
    for process in processes:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
    for pid in started:
        with suppress(ProcessLookupError):  # it is not ours to wait for
            os.kill(pid, signal.SIGKILL)


def test_a_fork_counts_its_own_requests_only(server: Start, reader: LaneReader) -> None:
    process, parent, child = server("returns")
    assert process.stdin is not None
    assert process.stdout is not None
    eventually(lambda: {s.pid for s in reader.sources()} == {parent, child})
    # The child's request has ended; the parent's has not.
    assert reader.reading().signal == "hold"
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "ended\n"
    eventually(lambda: reader.reading().signal == "clear")


def test_a_parent_that_is_killed_is_lost_though_its_fork_lives(server: Start, reader: LaneReader) -> None:
    process, parent, child = server("returns")
    eventually(lambda: {s.pid for s in reader.sources()} == {parent, child})
    process.kill()
    process.wait()
    eventually(lambda: reader.reading().is_lost)
    by_pid = {source.pid: source.reading for source in reader.sources()}
    assert by_pid[parent] is not None
    assert by_pid[parent].is_lost
    assert by_pid[child] is not None
    assert by_pid[child].signal == "clear"


def test_a_fork_that_is_killed_is_lost_alone(server: Start, reader: LaneReader) -> None:
    _, parent, child = server("stays")
    eventually(lambda: {s.pid for s in reader.sources()} == {parent, child})
    os.kill(child, signal.SIGKILL)
    eventually(lambda: {s.pid: s.reading is not None and s.reading.is_lost for s in reader.sources()}.get(child, False))
    by_pid = {source.pid: source.reading for source in reader.sources()}
    assert by_pid[parent] is not None
    assert not by_pid[parent].is_lost
    assert by_pid[parent].signal == "hold"
