"""The JSON of all rows, of which each keeps the time and the machine that it was measured on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import reporting

from .far_store import FIRST_BYTE_MS, MB_PER_S, SEED
from .row import Aim, Row, Runs
from .running import Measured

MEMORY = "held in memory ÷ the profile's budget, the most of any arm"


def path(*, quick: bool) -> Path:
    """Where it is; what was measured quickly never stands in for what was not."""
    return reporting.RESULTS / f"{name(quick=quick)}.json"


def name(*, quick: bool) -> str:
    return "storage_quick" if quick else "storage"


def load(file: Path) -> dict[str, Any]:
    """What there is, by row."""
    return json.loads(file.read_text()).get("rows", {}) if file.exists() else {}


def keep(row: Row, found: Measured, file: Path, *, quick: bool) -> dict[str, Any]:
    """Put a row in place of what there was of it; returns all rows."""
    rows = load(file)
    machine = reporting.machine()
    machine["packages"].update({name: reporting.version_of(name) for name in _PACKAGES})
    rows[row.name] = {
        "title": row.title, "machine": machine, "quick": quick, "repeats": found.repeats,
        "is_whole": found.is_whole, "took_s": found.took_s, "left_out": row.left_out(), "died": found.died,
        "figures": figures(row, found.runs), "aims": aims(row, found.runs), "runs": found.runs,
    }  # fmt: skip
    file.parent.mkdir(exist_ok=True)
    told = {"first_byte_ms": FIRST_BYTE_MS, "mb_per_s_per_connection": MB_PER_S, "seed": SEED, "rows": rows}
    before = file.with_suffix(".tmp")
    before.write_text(json.dumps(told, indent=1) + "\n")
    before.replace(file)
    return rows


def figures(row: Row, runs: Runs) -> dict[str, Any]:
    """Median, minimum and maximum of each figure, or its total, by group and arm."""
    return {
        group: {
            arm: {
                column.figure: _figure([run[column.figure] for run in several if column.figure in run], column.is_total)
                for column in row.columns
                if any(column.figure in run for run in several)
            }
            for arm, several in arms.items()
        }
        for group, arms in runs.items()
    }


def _figure(values: list[float], is_total: bool) -> dict[str, float]:
    return {"total": sum(values), "runs": len(values)} if is_total else reporting.spread(values)


def aims(row: Row, runs: Runs) -> Sequence[Mapping[str, Any]]:
    """What each aim came to."""
    found: list[Mapping[str, Any]] = [_held(aim, runs) for aim in row.aims]
    if shares := row.over_budget(runs):
        spread = reporting.spread(shares)
        # Within it in most repeats is not within it.
        found.append({"says": MEMORY, "bound": "≤ 1", "measured": spread, "is_met": spread["max"] <= 1})
    return found


def _held(aim: Aim, runs: Runs) -> Mapping[str, Any]:
    values = aim.values(runs)
    measured = reporting.spread(values) if values else None
    return {"says": aim.says, "bound": aim.bound, "measured": measured, "is_met": aim.is_met(values)}


_PACKAGES = (
    "fsspec", "s3fs", "gcsfs", "aiobotocore", "boto3", "obstore", "s3torchconnectorclient", "runai-model-streamer",
    "safetensors", "torch", "numpy",
)  # fmt: skip
