"""The compose program."""

from __future__ import annotations

import os

import pytest

from support.composing import Compose


@pytest.fixture(scope="session")
def compose() -> Compose:
    """Compose v2. Where there is none the tests are skipped, but for a run that demands all."""
    found = Compose.find()
    if found is None:
        message = "needs compose v2: COMPOSE=$(.ci/compose .venv/compose)"
        if os.environ.get("TEST_ALL_SERVERS"):
            pytest.fail(message)
        pytest.skip(message)
    return found
