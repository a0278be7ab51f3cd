"""Places for the checkpoints of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.faulty_gcs import FaultyGcs
from support.places import Place


@pytest.fixture(params=["local", "memory", "gs", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Where a run is, and with which options."""
    match request.param:
        case "local":
            yield Place("local", str(tmp_path / "runs" / "7"))
        case "memory":
            yield Place("memory", f"checkpoint::memory://{tmp_path.name}/runs/7")
        case "gs":
            pytest.importorskip("gcsfs")
            with FaultyGcs().serving() as gcs:
                yield Place("gs", f"checkpoint::gs://bkt/{tmp_path.name}/runs/7", options=gcs.options)
        case _:
            server = request.getfixturevalue("s3_server")
            yield Place("s3", f"checkpoint::{request.getfixturevalue('s3_url')}/runs/7", options=server.options)
