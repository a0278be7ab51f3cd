"""Load on the machine that is, or is not, batch work; and a management library for GPUs that are not there."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from holdshort.jobs import Settings, presence
from holdshort.jobs.settings import PoolSettings
from holdshort.storage.opening import open_store
from holdshort.workers.lane.place import LanePlace
from holdshort.workers.lane.reader import LaneReader
from support.commands import Commands
from support.holdshort import settings_for

HERE = Path(__file__).parent

# Burns processors as somebody else: not below the tests, whose processes count as batch here. Ends by itself.
_BURN = """
import os, sys, time
for _ in range(int(sys.argv[1])):
    pid = os.fork()
    if pid == 0:
        os.setsid()
        for descriptor in range(3):
            os.close(descriptor)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            pass
        os._exit(0)
    print(pid)
"""


class Burners:
    """Twice as many busy processes as there are processors, so that they get their share of a busy machine too."""

    def __init__(self) -> None:
        count = 2 * len(os.sched_getaffinity(0))
        ran = subprocess.run(
            [sys.executable, "-c", _BURN, str(count)], stdout=subprocess.PIPE, text=True, timeout=30, check=True
        )
        self.pids = [int(line) for line in ran.stdout.split()]

    def end(self) -> None:
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Crew:
    """Beats for processes as workers do: first of all for the whole test run, whose load is none of others here."""

    def __init__(self, settings: Settings) -> None:
        tests = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
        self.pids = [tests]
        self._store = open_store(settings.store)
        self._started_at = time.time()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._beat()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def add(self, *pids: int) -> None:
        self.pids += pids
        self._beat()

    def remove(self, *pids: int) -> None:
        with self._lock:
            self.pids = [pid for pid in self.pids if pid not in pids]
            for pid in pids:
                presence.goodbye(self._store, "embed", f"crew-{pid}")

    def end(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            self._beat()

    def _beat(self) -> None:
        with self._lock:
            for pid in self.pids:
                beat = presence.Beat(
                    worker_id=f"crew-{pid}", pool="embed", host=socket.gethostname(), pid=pid, engine="none",
                    started_at=self._started_at, at=time.time(),
                )  # fmt: skip
                presence.beat(self._store, beat)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    pools = {
        "embed": PoolSettings(
            engine="function", options={"target": "support.functions:echo"}, signal_loss_timeout_s=2.0,
            devices=("gpu0", "gpu1", "left"),
        ),
        "other": PoolSettings(engine="function", options={"target": "support.functions:echo"}),
    }  # fmt: skip
    return settings_for(tmp_path, f"embedded://{tmp_path}/broker.db", pools=pools)


@pytest.fixture
def run(tmp_path: Path, settings: Settings) -> Commands:
    return Commands(tmp_path, settings)


@pytest.fixture
def lane(settings: Settings) -> LaneReader:
    return LaneReader(LanePlace.of(settings), "embed", signal_loss_timeout_s=60.0)


@pytest.fixture
def crew(settings: Settings) -> Iterator[Crew]:
    found = Crew(settings)
    try:
        yield found
    finally:
        found.end()


@pytest.fixture
def burn() -> Iterator[Callable[[], Burners]]:
    """Keeps the machine busy from its call on."""
    started: list[Burners] = []

    def start() -> Burners:
        started.append(Burners())
        return started[-1]

    yield start
    for burners in started:
        burners.end()


@pytest.fixture(scope="session")
def nvml_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a management library, for LD_LIBRARY_PATH."""
    pytest.importorskip("pynvml", reason="needs the Python module pynvml (pip install nvidia-ml-py)")
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler (apt-get install gcc)")
    folder = tmp_path_factory.mktemp("nvml")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(folder / "libnvidia-ml.so.1"), str(HERE / "nvml.c")], check=True
    )
    return folder
