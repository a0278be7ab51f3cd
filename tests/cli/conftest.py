"""A house for the commands: all tests of this folder share its worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.commands import Commands
from support.house import House


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    found = House(tmp_path_factory.mktemp("house"))
    try:
        found.processes.worker()
        yield found
    finally:
        found.processes.end()
        print(found.processes.logs())


@pytest.fixture
def run(house: House) -> Commands:
    return house.run
