"""An inbox, and a store in which its files become jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdshort.jobs import Settings
from holdshort.jobs.triggers.folder import FolderTrigger
from support.brokers import EmbeddedBroker
from support.holdshort import settings_for


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    broker = EmbeddedBroker(tmp_path / "broker")
    broker.start()
    return settings_for(tmp_path, broker.url)


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def trigger(settings: Settings, inbox: Path) -> FolderTrigger:
    return FolderTrigger(settings, inbox, "embed")
