"""Holdshort's own processes, as tests start and kill them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from holdshort.jobs.presence import alive
from holdshort.jobs.settings import PoolSettings, Settings
from holdshort.storage.opening import open_store
from support.waiting import eventually
from support.warm import WarmProcess

TESTS = Path(__file__).parent.parent


def settings_for(
    folder: Path,
    broker: str,
    *,
    target: str = "support.functions:echo",
    store: str | None = None,
    **more: Any,
) -> Settings:
    """Settings of a test: a store in its folder, short times, and a pool with a function engine."""
    values: dict[str, Any] = {
        "broker": broker,
        "store": store or str(folder / "store"),
        "quantum_s": 2.0,
        "control_interval_s": 0.2,
        "redelivery_s": 2.0,
        "pools": {"embed": PoolSettings(engine="function", options={"target": target})},
        "lane_folder": folder / "lane",
        # Tests of one host need no relay beside each worker.
        "lane_fanout": False,
    }
    return Settings(**{**values, **more})


class Process:
    """One of our processes, a module with arguments, logging to a file.

    Args:
        is_warm: whether it may be one that has imported before it starts, see support.warm.
    """

    def __init__(self, command: list[str], settings: Settings, log: Path, *, is_warm: bool = False) -> None:
        self.log = log
        environment = {
            **os.environ, "PYTHONPATH": str(TESTS), "TEST_FOLDER": str(log.parent), **environment_of(settings)
        }  # fmt: skip
        self._process: subprocess.Popen[bytes] | WarmProcess
        with log.open("ab") as output:
            if is_warm:
                module, *arguments = command
                self._process = WarmProcess(
                    module, arguments, cwd=log.parent, env=environment, output=output, errors=output
                )
            else:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", *command], stdout=output, stderr=output, stdin=subprocess.PIPE,
                    start_new_session=True, cwd=log.parent, env=environment,
                )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Exit status; negative for a signal; None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def send(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def wait(self, *, timeout: float = 30.0) -> int:
        """Its exit status, once it has ended by itself."""
        return self._process.wait(timeout=timeout)

    def text(self) -> str:
        """What it has logged so far."""
        return self.log.read_text(errors="replace")


class Processes:
    """All processes of a test; none outlives it."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings
        self._all: list[Process] = []

    def worker(self, *, kill_at: str = "", nth: int = 1, pool: str = "embed", ready: bool = True) -> Process:
        """A worker; with `kill_at`, one that kills itself at the nth time it comes to that point."""
        command = ["support.worker", pool, kill_at, str(nth)]
        process = self._start(command, f"worker-{len(self._all)}.log", is_warm=True)
        if ready:
            self.wait_ready(process, pool)
        return process

    def wait_ready(self, process: Process, pool: str = "embed") -> None:
        """Wait until a worker consumes."""

        def ready() -> bool:
            if process.status is not None:
                raise AssertionError(f"the worker ended with {process.status}:\n{process.text()[-3000:]}")
            return "serves pool" in process.text()

        eventually(ready, timeout=30, what=f"a worker serves pool {pool}")

    def holdshort(self, *arguments: str) -> Process:
        """A `holdshort` command that keeps running, such as controller, up or watch."""
        # `up` runs further ones, which are to be like it.
        is_warm = arguments[0] != "up"
        return self._start(["holdshort.cli", *arguments], f"{arguments[0]}-{len(self._all)}.log", is_warm=is_warm)

    def alive(self, pool: str = "embed") -> int:
        """Workers that say they live."""
        import time

        return len(alive(open_store(self.settings.store), pool, now=time.time()))

    def end(self) -> None:
        for process in self._all:
            process.kill()

    def logs(self) -> str:
        """All logs, for a failing test to show."""
        return "\n".join(f"--- {process.log.name}\n{process.text()[-4000:]}" for process in self._all)

    def _start(self, command: list[str], log: str, *, is_warm: bool = False) -> Process:
        process = Process(command, self.settings, self.folder / log, is_warm=is_warm)
        self._all.append(process)
        return process


def environment_of(settings: Settings) -> dict[str, str]:
    """Environment variables by which our processes get these settings."""
    import json

    optional = {
        "HOLDSHORT_LANE_FOLDER": settings.lane_folder,
        "HOLDSHORT_LANE_FANOUT": settings.lane_fanout,
        "HOLDSHORT_TRACE_FOLDER": settings.trace_folder,
    }
    return {
        **{name: str(value) for name, value in optional.items() if value is not None},
        "HOLDSHORT_BROKER": settings.broker,
        "HOLDSHORT_STORE": settings.store,
        "HOLDSHORT_STORE_OPTIONS": json.dumps(settings.store_options),
        "HOLDSHORT_REPLICAS": json.dumps(settings.replicas),
        "HOLDSHORT_QUANTUM_S": str(settings.quantum_s),
        "HOLDSHORT_CONTROL_INTERVAL_S": str(settings.control_interval_s),
        "HOLDSHORT_REDELIVERY_S": str(settings.redelivery_s),
        "HOLDSHORT_POOLS": json.dumps({name: pool.model_dump() for name, pool in settings.pools.items()}),
    }
