"""A gateway process, as tests start and end it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from holdshort.jobs import Settings
from support.holdshort import TESTS, environment_of


class GatewayProcess:
    """`holdshort gateway`, listening."""

    def __init__(self, settings: Settings, folder: Path, arguments: list[str], table: dict[str, Any]) -> None:
        self.log = folder / "gateway.log"
        environment = {**os.environ, **environment_of(settings), "PYTHONPATH": str(TESTS)}
        if table:
            environment["HOLDSHORT_GATEWAY"] = json.dumps(table)
        with self.log.open("ab") as log:
            command = ("gateway", "--port", "0", "--json", "--with-parent", *arguments)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "holdshort.cli", *command],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, cwd=folder,
            )  # fmt: skip
        assert self.process.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            line = self.process.stdout.readline().decode()
            assert line, self.log.read_text()
            text += line
        self.url: str = json.loads(text)["url"]
        self.port = int(self.url.rpartition(":")[2])

    def end(self) -> None:
        """Kill it, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
