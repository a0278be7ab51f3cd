"""The services of docker-compose.yml as processes of this host: their commands, environments and health checks.

What containers add (their network, their users, their volumes) is put in place by exchanging texts: an address or a
path of a container for one of this host.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from support.composing import ROOT
from support.servers import SeaweedServer, Server


class Rehearsal:
    """Runs services as processes.

    Args:
        services: as compose gives them.
        exchange: texts in commands and environments, and what to put in their place; the first that fits first.
        folder: for logs, and a copy of deploy/compose in which the same texts are exchanged.
    """

    def __init__(self, services: Mapping[str, Any], exchange: Mapping[str, str], folder: Path) -> None:
        self._services = services
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []
        copy = folder / "settings"
        shutil.copytree(ROOT / "deploy/compose", copy, ignore=shutil.ignore_patterns("__pycache__"))
        self._exchange = {**exchange, "/etc/holdshort": str(copy)}
        settings = copy / "holdshort.toml"
        settings.write_text(self._here(settings.read_text()))

    def run(self, name: str, *, timeout: float = 60.0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a one-shot service to its end."""
        service = self._services[name]
        command = [*(service.get("entrypoint") or ["holdshort"]), *service["command"]]
        return self._to_the_end(name, command, timeout, environment)

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start a service that keeps running."""
        command = [self._here(word) for word in ["holdshort", *self._services[name]["command"]]]
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                self._program(command), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self._folder,
                env=self.environment(name), start_new_session=True,
            )  # fmt: skip
        self._running.append(process)
        return process

    def complaint(self, name: str) -> str | None:
        """Why a service's own health check fails; None if it passes."""
        command = self._services[name]["healthcheck"]["test"][1:]
        ran = self._to_the_end(name, command, 30.0, {})
        return None if ran.returncode == 0 else ran.stderr

    def log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def end(self) -> None:
        """End all that runs, at once."""
        for process in self._running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _to_the_end(
        self, name: str, command: list[str], timeout: float, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._program([self._here(word) for word in command]), capture_output=True, text=True, timeout=timeout,
            cwd=self._folder, env={**self.environment(name), **environment},
        )  # fmt: skip

    def environment(self, name: str) -> dict[str, str]:
        own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return {**own, **{key: self._here(value) for key, value in self._services[name]["environment"].items()}}

    def _program(self, command: list[str]) -> list[str]:
        programs = {"python": [sys.executable], "holdshort": [sys.executable, "-m", "holdshort.cli"]}
        return [*programs.get(command[0], command[:1]), *command[1:]]

    def _here(self, text: str) -> str:
        for there, here in self._exchange.items():
            text = text.replace(there, here)
        return text


class StoreService(Server):
    """The service `store` of docker-compose.yml, by the same program from another package.

    Args:
        service: as compose gives it.
        ports: by flag, such as {"s3.port": 18333}, since containers have ports of their own and processes have not.
    """

    def __init__(self, folder: Path, service: Mapping[str, Any], ports: Mapping[str, int]) -> None:
        super().__init__(folder)
        self._service = service
        self._ports = ports

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3.port']}"

    def command(self) -> list[str]:
        (self.folder / "data").mkdir(exist_ok=True)
        given = [word.replace("/data", str(self.folder / "data")) for word in self._service["command"]]
        here = [
            *(f"-{name}={port}" for name, port in self._ports.items()),
            "-s3.ip.bind=127.0.0.1", f"-filer.localSocket={self.folder}/filer.sock",
            f"-s3.localSocket={self.folder}/s3.sock",
        ]  # fmt: skip
        return [SeaweedServer.program() or "weed", *given, *here]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **self._service["environment"]}

    def is_ready(self) -> bool:
        import urllib.error
        import urllib.request

        address = next(word for word in self._service["healthcheck"]["test"] if word.startswith("http"))
        path = address.partition("8333")[2]
        try:
            with urllib.request.urlopen(self.endpoint + path, timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False
