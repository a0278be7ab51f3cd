"""Runs an arm in processes of its own, which are ready before their time begins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from .far_store import MIB, stats
from .row import ArmDied, Run

LONGEST_S = 600.0
"""An arm that takes longer is given up."""

_BENCHMARKS = Path(__file__).parent.parent


def moved(row: str, arm: str, endpoint: str, **given: Any) -> Run:
    """One process of an arm, with an empty cache: its figures, and what it moved by those of the store."""
    with tempfile.TemporaryDirectory() as cache:
        (run,) = started(row, arm, endpoint=endpoint, cache=cache, touched=given["size"], **given)
    told = {**run, **stats(endpoint)}
    return {**told, "mb_per_s": run["got"] / run["seconds"] / 1e6, "fetched": told["bytes"] / run["got"]}


def started(row: str, arm: str, *, count: int = 1, cache: str, touched: int = 0, **given: Any) -> list[Run]:
    """So many processes, which begin at once when all are ready. Raises ArmDied if one of them fails.

    Args:
        row: the module of this package whose ARMS has the arm.
        cache: the folder that caches are in.
        touched: so many bytes of memory are in hand when they begin.
    """
    told = [json.dumps({"arm": arm, "cache": cache, "number": number, **given}) for number in range(count)]
    commands = [[sys.executable, "-m", "rows.child", row, each] for each in told]
    environment = {**os.environ, "HOLDSHORT_CACHE": cache, "PYTHONPATH": str(_BENCHMARKS)}
    with _processes(commands, environment) as (processes, errors):
        for process in processes:
            if _line(process) != "ready\n":
                raise ArmDied(_last_words(process, errors))
        touch(touched)
        if "endpoint" in given:
            stats(given["endpoint"])
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        lines = [_line(process) for process in processes]
        for process, line in zip(processes, lines, strict=True):
            if not line:
                raise ArmDied(_last_words(process, errors))
        return [json.loads(line) for line in lines]


def together(runs: Sequence[Run]) -> Run:
    """Of several processes: the last one's time, and what they took in all; of memory, what the largest took."""
    found: Run = {name: max(run[name] for run in runs) for name in runs[0]}
    return {**found, "cpu_s": sum(run["cpu_s"] for run in runs)}


def touch(size: int) -> None:
    """Have the machine's memory in hand: on a virtual one, what was free for two seconds may take long to come."""
    with tempfile.TemporaryFile() as file:
        for _ in range(0, size, 8 * MIB):
            file.write(bytes(8 * MIB))


@contextmanager
def _processes(
    commands: Sequence[Sequence[str]], environment: dict[str, str]
) -> Iterator[tuple[list[subprocess.Popen[str]], IO[str]]]:
    """None of them, nor of their children, is left at the end, however that comes."""
    processes: list[subprocess.Popen[str]] = []
    with tempfile.TemporaryFile("w+") as errors:
        watch = threading.Timer(LONGEST_S, lambda: _kill(processes))
        watch.start()
        try:
            for command in commands:
                processes.append(
                    subprocess.Popen(
                        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                        text=True, start_new_session=True,
                    )
                )  # fmt: skip
            yield processes, errors
        finally:
            watch.cancel()
            _kill(processes)
            for process in processes:
                process.communicate()


def _kill(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def _last_words(process: subprocess.Popen[str], errors: IO[str]) -> str:
    code = process.wait(timeout=60)
    errors.seek(0)
    lines = [line for line in errors.read().splitlines() if line.strip()]
    killed = f", which is what happens after {LONGEST_S:.0f} s" if code == -signal.SIGKILL else ""
    return f"ended with {code}{killed}: {lines[-1][-300:] if lines else 'it said nothing'}"
