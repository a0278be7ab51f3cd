"""The store that all rows share: on loopback, and as slow as one within its region is."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

FIRST_BYTE_MS, MB_PER_S = 40, 90
MIB = 2**20
SEED = 20261124
PATH = "bucket/object"

_SERVER = Path(__file__).parent.parent / "latency_server.py"
_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


@contextmanager
def store(size: int, line_mb_per_s: float = math.inf) -> Iterator[str]:
    """A store whose objects all have this size; yields its URL.

    Args:
        line_mb_per_s: what all connections together may do.
    """
    with tempfile.NamedTemporaryFile(dir=_MEMORY) as file:
        part = random.Random(SEED).randbytes(MIB)
        for _ in range(size // MIB):
            file.write(part)
        file.write(part[: size % MIB])
        file.flush()
        with _serving(file.name, line_mb_per_s) as endpoint:
            yield endpoint


@contextmanager
def store_of(file: Path) -> Iterator[str]:
    """A store that has this file under every name."""
    with tempfile.NamedTemporaryFile(dir=_MEMORY) as served:
        served.write(file.read_bytes())
        served.flush()
        with _serving(served.name) as endpoint:
            yield endpoint


@contextmanager
def _serving(path: str, line_mb_per_s: float = math.inf) -> Iterator[str]:
    # Not in our group: Ctrl-C is ours to answer, and what runs then still has to read its figures.
    command = [sys.executable, str(_SERVER), str(FIRST_BYTE_MS), str(MB_PER_S), path, str(line_mb_per_s)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.communicate()


def stats(endpoint: str) -> dict[str, float]:
    """What was moved since it was asked for last."""
    with urlopen(f"{endpoint}/__stats") as answer:
        return json.load(answer)


def options(endpoint: str) -> dict[str, Any]:
    """fsspec storage options for it, of S3."""
    return {"key": "key", "secret": "secret", "endpoint_url": endpoint, "client_kwargs": {"region_name": "us-east-1"}}


def gcs_options(endpoint: str) -> dict[str, Any]:
    """fsspec storage options for it, of Google Cloud Storage."""
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # or it would look for a server of another kind
    return {"token": "anon", "endpoint_url": endpoint, "project": "none"}
