"""Hosts, as far as lanes are concerned: each has a lane folder of its own, and shares store and broker with others."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from holdshort.jobs.settings import Settings
from holdshort.workers.lane.place import LanePlace
from holdshort.workers.lane.reader import LaneReader
from holdshort.workers.lane.reading import Reading
from support.holdshort import TESTS, environment_of
from support.waiting import eventually
from support.warm import WarmProcess


class LaneProcess:
    """A process of a host."""

    def __init__(self, module: str, arguments: list[str], host: Host, log: Path) -> None:
        self.log = log
        self.log.parent.mkdir(parents=True, exist_ok=True)
        python_path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": python_path, **host.environment()}
        read, write = os.pipe()
        self._answers = os.fdopen(read)
        with log.open("ab") as errors, os.fdopen(write, "wb") as output:
            self._process = WarmProcess(
                module, arguments, cwd=Path.cwd(), env=environment, output=output, errors=errors
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def say(self, line: str) -> str:
        """Give it a line; returns its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()
        answer = self._answers.readline()
        assert answer, f"it ended:\n{self.text()[-3000:]}"
        return answer.strip()

    def quit(self) -> None:
        """Let it end normally."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)

    def send(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._answers):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def wait(self, *, timeout: float = 20.0) -> int:
        return self._process.wait(timeout=timeout)

    def text(self) -> str:
        """What it has logged so far."""
        return self.log.read_text(errors="replace")


class Host:
    """One lane folder, and the processes that share it."""

    def __init__(self, name: str, settings: Settings, folder: Path) -> None:
        self.name = name
        self.settings = settings.model_copy(update={"lane_folder": folder / "lane", "lane_fanout": True})
        self.place = LanePlace.of(self.settings)
        self._folder = folder
        self._processes: list[LaneProcess] = []

    def environment(self) -> dict[str, str]:
        return {
            **environment_of(self.settings),
            "HOLDSHORT_LANE_FOLDER": str(self.settings.lane_folder),
            "HOLDSHORT_LANE_FANOUT": "true",
        }

    def source(self, name: str = "gateway") -> LaneProcess:
        """A process with a source on each pool."""
        return self._start("support.lane_source", name)

    def relay(self, *, ready: bool = True) -> LaneProcess:
        """The host's relay, once it hears the others."""
        relay = self._start("holdshort.cli", "lane-relay", "--with-parent")
        if ready:
            self.until(lambda _: self._relay_hears(), what="the relay hears other hosts")
        return relay

    def reader(self, *, timeout_s: float = 60.0, on_lost: Callable[[str], None] | None = None) -> LaneReader:
        return LaneReader(self.place, "embed", signal_loss_timeout_s=timeout_s, on_lost=on_lost)

    def until(self, condition: Callable[[Reading], object], *, timeout: float = 20.0, what: str = "") -> Reading:
        """The first reading of its workers of which this is true."""
        reader = self.reader()

        def look() -> Reading | None:
            reading = reader.reading()
            return reading if condition(reading) else None

        found = eventually(look, timeout=timeout, every=0.002, what=what or f"host {self.name}: {reader.reading()}")
        assert found is not None
        return found

    def end(self) -> None:
        for process in self._processes:
            process.kill()

    def logs(self) -> str:
        return "\n".join(f"--- {self.name} {p.log.name}\n{p.text()[-3000:]}" for p in self._processes)

    def _relay_hears(self) -> bool:
        states = [state for state in self.reader().sources() if state.name == "relay"]
        return bool(states) and all(s.reading is not None and s.reading.signal == "clear" for s in states)

    def _start(self, module: str, *arguments: str) -> LaneProcess:
        log = self._folder / f"{module.rpartition('.')[2]}-{len(self._processes)}"
        process = LaneProcess(module, list(arguments), self, log)
        self._processes.append(process)
        return process


class Samples:
    """Reads a lane all the time, in a thread."""

    def __init__(self, reader: LaneReader) -> None:
        self._reader = reader
        self.readings: list[tuple[float, Reading]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> list[tuple[float, Reading]]:
        """Each reading that differs from the one before, and when it was first read (monotonic seconds)."""
        self._stop.set()
        self._thread.join()
        return self.readings

    def _run(self) -> None:
        while not self._stop.is_set():
            reading = self._reader.reading()
            if not self.readings or self.readings[-1][1] != reading:
                self.readings.append((time.monotonic(), reading))
            time.sleep(0)
