"""A gateway process in front of an upstream that does as it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("httptools")

from holdshort.jobs import Settings
from holdshort.workers.lane.place import LanePlace
from holdshort.workers.lane.reader import LaneReader
from support.gateway import GatewayProcess
from support.holdshort import settings_for
from support.upstream import Upstream


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(tmp_path, f"embedded://{tmp_path}/broker.db")


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    found = Upstream()
    found.start()
    yield found
    found.stop()


@pytest.fixture
def start(settings: Settings, tmp_path: Path, upstream: Upstream) -> Iterator[Callable[..., GatewayProcess]]:
    """Starts a gateway; keywords are the table [gateway]."""
    made: list[GatewayProcess] = []

    def start(**table: Any) -> GatewayProcess:
        found = GatewayProcess(settings, tmp_path, [], {"upstream": upstream.url, **table})
        made.append(found)
        return found

    try:
        yield start
    finally:
        for found in made:
            found.end()
            print(found.log.read_text())  # pytest shows it for a failing test only


@pytest.fixture
def gateway(start: Callable[..., GatewayProcess]) -> GatewayProcess:
    return start()


@pytest.fixture
def reader(settings: Settings) -> LaneReader:
    """What a worker of the pool reads."""
    return LaneReader(LanePlace.of(settings), "embed", signal_loss_timeout_s=30.0, on_lost=lambda name: None)
