"""lane.html: the same picture as a page of its own, which needs nothing else; every token tells its time."""

from __future__ import annotations

from dataclasses import asdict
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson

from .figures import figures
from .report import TITLES, cells, summary
from .show import Shown
from .timeline import timeline


def write(shown: Shown, described: dict[str, Any], path: Path) -> None:
    """Write the page."""
    template = files(__package__ or "holdshort.cli.demo").joinpath("lane.html").read_text(encoding="utf-8")
    # "<" can't end the script early: a title such as </script> becomes harmless.
    data = orjson.dumps({**asdict(timeline(shown)), "titles": TITLES}).decode().replace("<", "\\u003c")
    page = (
        template.replace("@@DATA@@", data)
        .replace("@@ROWS@@", _rows(shown))
        .replace("@@SUMMARY@@", "".join(f"<li>{escape(line)}</li>" for line in summary(shown)))
        .replace("@@MACHINE@@", _machine(described))
    )
    path.write_text(page, encoding="utf-8")


def _rows(shown: Shown) -> str:
    rows: list[str] = []
    for phase in shown.phases:
        found = figures(phase)
        columns = (str(found.requests), *cells(found))
        told = "".join(f"<td>{escape(column)}</td>" for column in columns)
        rows.append(f'<tr><th class="{phase.name}">{escape(TITLES[phase.name])}</th>{told}</tr>')
    return "\n".join(rows)


def _machine(described: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {found}" for name, found in described["packages"].items() if found)
    parts = (
        f"{described['cpu']}, {described['cores']} cores, {described['system']}, Python {described['python']}",
        described["models"],
        described["chat"],
        versions,
    )
    return " · ".join(escape(str(part)) for part in parts)
