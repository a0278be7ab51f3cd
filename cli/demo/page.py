"""lane.html: the same picture as a page of its own, which needs nothing else; every token tells its time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson

from .report import COLUMNS, TITLES, cells, headline, measured_on, notes, outcome, searches, summary
from .show import Shown
from .timeline import timeline


def write(shown: Shown, described: dict[str, Any], path: Path) -> None:
    """Write the page."""
    template = files(__package__ or "holdshort.cli.demo").joinpath("lane.html").read_text(encoding="utf-8")
    data = {**asdict(timeline(shown)), "titles": TITLES, "notes": {one.name: notes(one) for one in shown.phases}}
    parts = {
        "LEAD": escape(headline(shown)),
        "COLUMNS": "".join(f"<th>{escape(column)}</th>" for column in COLUMNS),
        "ROWS": _rows(shown),
        "SUMMARY": _items(summary(shown)),
        "OUTCOME": _items(outcome(shown)),
        "SEARCHES": "".join(f"<dt>“{escape(one)}”</dt><dd>{escape(found)}</dd>" for one, found in searches(shown)),
        "MACHINE": "".join(f"<div>{escape(line)}</div>" for line in measured_on(described)),
        # "<" can't end the script early: a title such as </script> becomes harmless.
        "DATA": orjson.dumps(data).decode().replace("<", "\\u003c"),
    }
    for name, part in parts.items():
        template = template.replace(f"@@{name}@@", part)
    path.write_text(template, encoding="utf-8")


def _items(lines: Iterable[str]) -> str:
    return "".join(f"<li>{escape(line)}</li>" for line in lines)


def _rows(shown: Shown) -> str:
    rows: list[str] = []
    for phase in shown.phases:
        told = "".join(
            f'<td data-of="{escape(column)}">{escape(cell)}</td>'
            for column, cell in zip(COLUMNS[1:], cells(shown, phase), strict=True)
        )
        rows.append(f'<tr><th class="{phase.name}">{escape(TITLES[phase.name])}</th>{told}</tr>')
    return "\n".join(rows)
