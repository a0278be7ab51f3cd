"""What benchmarks share: statistics, the machine's description, table, JSON and chart."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results"


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": median(values), "min": min(values), "max": max(values), "runs": len(values)}


def machine() -> dict[str, Any]:
    """Where this ran, and with what."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    packages = ("holdshort", "celery", "kombu", "onnxruntime", "orjson", "redis")
    return {
        "when": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "load_1m": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: version_of(name) for name in packages},
    }


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table."""
    cells = [list(columns), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    sys.stdout.write(f"\n{title}\n")
    for number, row in enumerate(cells):
        sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")
        if number == 0:
            sys.stdout.write("  ".join("-" * width for width in widths) + "\n")
    sys.stdout.flush()


def markdown(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table for a page of the documentation."""
    sys.stdout.write(f"\n**{title}**\n\n")
    for cells in (columns, ["---"] * len(columns), *rows):
        sys.stdout.write(f"| {' | '.join(str(cell) for cell in cells)} |\n")


def write(name: str, found: Mapping[str, Any]) -> Path:
    """Write the JSON; returns where it is."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **found}, indent=2) + "\n")
    sys.stdout.write(f"\nwritten: {path}\n")
    return path


def bars(name: str, title: str, groups: Mapping[str, Mapping[str, float]], *, unit: str, log: bool = False) -> None:
    """Draw groups of bars (group → label → value) as PNG; with `log` those that span more than a tenfold so."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(groups), figsize=(1.2 + 3.6 * len(groups), 4.2), squeeze=False)
    for place, (group, values) in enumerate(groups.items()):
        axis = axes[0][place]
        drawn = axis.bar(list(values), list(values.values()), color="#3b6ea5")
        axis.bar_label(drawn, [f"{v:,.0f}" if v >= 100 else f"{v:.3g}" for v in values.values()], fontsize=8, padding=2)
        axis.margins(y=0.12)
        axis.set_title(group, fontsize=10)
        axis.tick_params(axis="x", rotation=35, labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        if log and max(values.values()) > 10 * min(values.values()) > 0:
            axis.set_yscale("log")
    axes[0][0].set_ylabel(unit)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    path = RESULTS / f"{name}.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    sys.stdout.write(f"written: {path}\n")


def sideways(name: str, title: str, groups: Mapping[str, Mapping[str, float]], *, unit: str) -> None:
    """Draw groups of bars (group → label → value, which may be negative) from left to right as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    most = max(len(values) for values in groups.values())
    figure, axes = plt.subplots(1, len(groups), figsize=(5.2 * len(groups), 1.4 + 0.24 * most), squeeze=False)
    for axis, (group, values) in zip(axes[0], groups.items(), strict=True):
        drawn = axis.barh(list(values)[::-1], list(values.values())[::-1], color="#3b6ea5")
        axis.bar_label(drawn, [f"{value:+.1f}" for value in list(values.values())[::-1]], fontsize=7, padding=2)
        axis.axvline(0, color="#444444", linewidth=0.8)
        axis.margins(x=0.15)
        axis.set_title(group, fontsize=10)
        axis.set_xlabel(unit)
        axis.tick_params(axis="y", labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    path = RESULTS / f"{name}.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    sys.stdout.write(f"written: {path}\n")


def version_of(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
