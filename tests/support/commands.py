"""The `holdshort` command as a user runs it: a process of its own, its output and its exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdshort.jobs import Settings
from support.holdshort import TESTS, environment_of
from support.warm import WarmProcess, is_for

_LEFT_OUT = ("HOLDSHORT_", "PYTHONUNBUFFERED")
_PATIENCE_S = 60
PROGRAM = [sys.executable, "-m", "holdshort.cli"]


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must hold JSON and nothing else."""
        return json.loads(self.out)


class Commands:
    """Runs commands in a folder, with the settings of a test.

    Args:
        folder: the working directory; no holdshort.toml but its own is seen.
        settings: reach the commands by the environment; None: only what the commands find by themselves.
    """

    def __init__(self, folder: Path, settings: Settings | None) -> None:
        self.folder = folder
        variables = environment_of(settings) if settings else {}
        home = folder / "home"  # nothing of the person who runs the tests gets in, or is touched
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(_LEFT_OUT)},
            "PYTHONPATH": str(TESTS),
            "XDG_DATA_HOME": str(home / "data"),
            "XDG_CONFIG_HOME": str(home / "config"),
            "COLUMNS": "120",
            **variables,
        }

    def __call__(self, *arguments: str, code: int = 0, stdin: str = "", **variables: str) -> Ran:
        """Run a command to its end; it must have this exit code, and never shows a traceback."""
        environment = {**self.environment, **variables}
        ran = (_warm if is_for(variables) else _cold)(arguments, stdin, self.folder, environment)
        assert ran.code == code, ran
        assert "Traceback" not in ran.err, ran.err
        if code not in (0, 1, 5):
            assert ran.out == "", ran
            assert ran.err != "", ran
        return ran

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start a command; the caller ends it."""
        return subprocess.Popen(
            [*PROGRAM, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, cwd=self.folder, env={**self.environment, **variables},
        )  # fmt: skip


def _warm(arguments: Sequence[str], stdin: str, folder: Path, environment: Mapping[str, str]) -> Ran:
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        given.write(stdin.encode())
        given.seek(0)
        process = WarmProcess(
            "holdshort.cli", arguments, cwd=folder, env=environment, output=output, errors=errors, stdin=given
        )
        try:
            code = process.wait(timeout=_PATIENCE_S)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        output.seek(0)
        errors.seek(0)
        return Ran(code, output.read().decode(), errors.read().decode())


def _cold(arguments: Sequence[str], stdin: str, folder: Path, environment: Mapping[str, str]) -> Ran:
    found = subprocess.run(
        [*PROGRAM, *arguments], input=stdin, capture_output=True, text=True, timeout=_PATIENCE_S, cwd=folder,
        env=environment,
    )  # fmt: skip
    return Ran(found.returncode, found.stdout, found.stderr)
