"""Functions that pools run in benchmarks."""

from __future__ import annotations

from typing import Any

from holdshort.jobs.rows import Row


def null(rows: list[Row]) -> list[dict[str, Any]]:
    """Answers at once: what is left is Holdshort's own work."""
    return [{"n": 1}] * len(rows)
