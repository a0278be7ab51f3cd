"""The processes of the demo: model server, gateway, worker; none outlives it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ...storage.errors import HoldshortError

POOL = "embed"
_HOLDSHORT = (sys.executable, "-m", "holdshort.cli")
_READY_S = 60.0
_LEAVE_S = 30.0


class Stage:
    """Starts processes in a folder with a configuration of its own, and ends them in the reverse order.

    Args:
        folder: for store, broker, logs and trace.
        threads: of the model server; the indexing job takes what its engine takes by default.
    """

    def __init__(self, folder: Path, *, threads: int, options: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.threads = threads
        self._ended = ExitStack()
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "holdshort.toml"
        lines = [f"{key} = {json.dumps(value)}" for key, value in (options or {}).items()]
        config.write_text(
            f'store = "store"\ntrace_folder = "{folder}/trace"\nlane_folder = "{folder}/lane"\n'
            f'[pools.{POOL}]\nengine = "minilm"\n[pools.{POOL}.options]\n' + "\n".join(lines) + "\n",
            encoding="utf-8",
        )
        # Whatever the user's own configuration says, only this one counts here; models may lie where they say.
        kept = {n: v for n, v in os.environ.items() if not n.startswith("HOLDSHORT_") or n == "HOLDSHORT_MODELS"}
        self.environment = {
            **kept,
            "HOLDSHORT_CONFIG": str(config),
            "HOLDSHORT_BROKER": f"embedded://{folder}/broker.db",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.close()

    def model(self) -> str:
        """Start the chatbot's server; returns its URL."""
        command = ("models", "serve", "smollm2", "--port", "0", "--threads", str(self.threads), "--json")
        return self._listening("model", [*_HOLDSHORT, *command, "--with-parent"])

    def gateway(self, upstream: str) -> str:
        """Start a gateway in front of it; returns its URL."""
        command = ("gateway", "--upstream", upstream, "--port", "0", "--json", "--with-parent")
        return self._listening("gateway", [*_HOLDSHORT, *command])

    def up(self) -> subprocess.Popen[bytes]:
        """Start `holdshort up`: the worker, and the controller."""
        return self.start("up", [*_HOLDSHORT, "up", "--with-parent"])

    def start(self, name: str, command: list[str], *, stdout: int | None = None) -> subprocess.Popen[bytes]:
        """Start a process that logs to a file of its name."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own command
                command, stdin=subprocess.PIPE, stdout=stdout or log, stderr=log, env=self.environment, cwd=self.folder,
                start_new_session=True,
            )  # fmt: skip
        self._ended.callback(_end, process)
        return process

    def check(self, process: subprocess.Popen[bytes], name: str) -> None:
        """Raise HoldshortError with the end of its log if a process has ended."""
        if process.poll() is not None:
            raise HoldshortError(f"The {name} of the demo ended early:{self._log_end(name)}")

    def trace(self) -> list[dict[str, Any]]:
        """What all workers have written down so far, in order of time."""
        found: list[dict[str, Any]] = []
        for path in (self.folder / "trace").glob("*.jsonl"):
            whole = path.read_bytes().rpartition(b"\n")[0]
            found += [json.loads(line) for line in whole.splitlines()]
        return sorted(found, key=lambda event: event["at"])

    def writes_trace(self, *, within_s: float) -> bool:
        """Whether a worker wrote something down so recently: it works."""
        times = [path.stat().st_mtime for path in (self.folder / "trace").glob("*.jsonl")]
        return bool(times) and time.time() - max(times) < within_s

    def _listening(self, name: str, command: list[str]) -> str:
        process = self.start(name, command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        text, end = b"", time.monotonic() + _READY_S
        while (left_s := end - time.monotonic()) > 0:
            if not select.select([process.stdout], [], [], left_s)[0]:
                break
            more = os.read(process.stdout.fileno(), 4096)
            if not more:
                process.wait()
                self.check(process, name)
            text += more
            try:
                return str(json.loads(text)["url"])
            except ValueError:
                continue
        raise HoldshortError(f"The {name} of the demo did not listen within {_READY_S:.0f} s.{self._log_end(name)}")

    def _log_end(self, name: str) -> str:
        return "\n" + (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        if process.poll() is None:
            process.terminate()
            if process.stdin is not None:
                process.stdin.close()
            process.wait(timeout=_LEAVE_S)
    except subprocess.TimeoutExpired:
        pass  # it is told once more, below
    finally:  # also when whoever waits loses patience and presses Ctrl-C again
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
