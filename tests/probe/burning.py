"""What a worker of these tests runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from holdshort.jobs.rows import Row


def until_released(rows: list[Row]) -> list[dict[str, Any]]:
    """Burns a processor until the file `released` is there."""
    folder = Path(os.environ["TEST_FOLDER"])
    (folder / "burning").touch()
    while not (folder / "released").exists():
        sum(range(100_000))
    return [{"echo": row.body["input"]} for row in rows]
