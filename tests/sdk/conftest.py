"""A store on the embedded broker for the clients."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdshort.jobs import Settings
from holdshort.jobs.settings import PoolSettings
from support.brokers import EmbeddedBroker
from support.holdshort import settings_for


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    broker = EmbeddedBroker(tmp_path / "broker")
    broker.start()
    pools = {
        name: PoolSettings(engine="function", options={"target": f"support.functions:{target}"})
        for name, target in {"embed": "echo", "slow": "slow_echo"}.items()
    }
    return settings_for(tmp_path, broker.url, pools=pools)
