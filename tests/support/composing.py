"""The compose program, and what it makes of docker-compose.yml."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
FILE = ROOT / "docker-compose.yml"
EXAMPLE = ROOT / "deploy/compose/.env.example"
_FETCHED = Path(sys.prefix) / "compose/usr/libexec/docker/cli-plugins/docker-compose"


class Compose:
    """Compose v2, for reading only: `config` needs no Docker daemon.

    Args:
        command: the program, with its first arguments.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)

    @classmethod
    def find(cls) -> Compose | None:
        """The program that COMPOSE names, one that is installed, or what `.ci/compose .venv/compose` has fetched.

        None without one of version 2.
        """
        named = os.environ.get("COMPOSE")
        if named:
            candidates = [[named] if Path(named).exists() else named.split()]
        else:
            candidates = [["docker-compose"], ["docker", "compose"], [str(_FETCHED)]]
        for command in candidates:
            if shutil.which(command[0]):
                ran = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, timeout=30)
                if ran.returncode == 0 and int(ran.stdout.strip().removeprefix("v").partition(".")[0]) >= 2:
                    return cls(command)
        return None

    def check(self, *profiles: str, file: Path = FILE, env_file: Path | None = None, **variables: str) -> str:
        """What `config --quiet` complains about; "" if nothing."""
        return self._run(["config", "--quiet"], profiles, file, env_file, variables).stderr

    def services(
        self, *profiles: str, file: Path = FILE, env_file: Path | None = None, **variables: str
    ) -> dict[str, Any]:
        """The services of these profiles, as compose would run them."""
        return self.config(*profiles, file=file, env_file=env_file, **variables)["services"]

    def config(self, *profiles: str, file: Path = FILE, env_file: Path | None = None, **variables: str) -> Any:
        """The whole configuration with these profiles. Nobody's own `.env` gets in."""
        ran = self._run(["config", "--format", "json"], profiles, file, env_file, variables)
        assert ran.returncode == 0, ran.stderr
        assert ran.stderr == "", ran.stderr  # a variable that is not set is only warned of
        return json.loads(ran.stdout)

    def _run(
        self, command: Sequence[str], profiles: Sequence[str], file: Path, env_file: Path | None,
        variables: dict[str, str],
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return subprocess.run(
            [
                *self._command, "--project-directory", str(ROOT), "--file", str(file), "--env-file",
                str(env_file or os.devnull), *(f"--profile={profile}" for profile in profiles), *command,
            ],
            capture_output=True, text=True, timeout=30, env={**own, **variables},
        )  # fmt: skip
