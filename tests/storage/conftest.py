"""Places for stores: each kind that can be had on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from holdshort.storage.store import Store
from support.faulty_gcs import FaultyGcs
from support.places import Place


@pytest.fixture(params=["local", "local-fsync", "memory", "s3", "gs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    match request.param:
        case "local":
            yield Place("local", str(tmp_path / "store"))
        case "local-fsync":
            yield Place("local", f"file://{tmp_path}/store", fsync=True)
        case "memory":
            yield Place("memory", f"memory://{tmp_path.name}")
        case "gs":
            pytest.importorskip("gcsfs")
            with FaultyGcs().serving() as gcs:
                yield Place("gs", f"gs://bkt/{tmp_path.name}", options=gcs.options)
        case _:
            server = request.getfixturevalue("s3_server")
            yield Place("s3", request.getfixturevalue("s3_url"), options=server.options)


@pytest.fixture
def store(place: Place) -> Store:
    return place.open()
