"""Tables, the summary and the chart of what was kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import reporting

from . import keeping
from .far_store import FIRST_BYTE_MS, MB_PER_S
from .row import Column, Row

Table = Callable[[str, Sequence[str], Sequence[Sequence[object]]], None]
"""Prints a table: title, columns, rows."""


def page(rows: Sequence[Row], kept: Mapping[str, Any]) -> None:
    """Print all tables as a page of the documentation."""
    sys.stdout.write(f"{_PAGE}\n")
    summary(rows, kept, reporting.markdown)
    for row in rows:
        if row.name in kept:
            about, machine = kept[row.name], kept[row.name]["machine"]
            sys.stdout.write(
                f"\n## {row.name}\n\n{row.title}. {about['repeats']} repeats, ended {machine['when']}; "
                f"{machine['cores']} cores, a load of {machine['load_1m']:.1f} at the end.\n"
            )
            tables(row, kept[row.name], reporting.markdown)


def tables(row: Row, kept: Mapping[str, Any], table: Table = reporting.table) -> None:
    """Print a table for each group."""
    for group, arms in kept["figures"].items():
        columns = [each for each in row.columns if any(each.figure in figures for figures in arms.values())]
        columns = [each for each in columns if any(_median(figures.get(each.figure)) for figures in arms.values())
                   or each.is_total]  # fmt: skip
        rows = [
            (arm, _runs(kept, group, arm), *(_cell(each, figures.get(each.figure)) for each in columns))
            for arm, figures in _sorted(row, arms)
        ]
        headings = ("arm", "runs", *(each.heading for each in columns))
        table(f"{row.name}: {row.title}; {group}" if table is reporting.table else group, headings, rows)
    for group, arms in kept["died"].items():
        for arm, said in arms.items():
            sys.stdout.write(f"{row.name}, {group}, {arm}: {len(said)} of {kept['repeats']} runs died: {said[-1]}\n")
    for arm, package in kept["left_out"].items():
        sys.stdout.write(f"{row.name}, {arm}: left out; pip install '{package}' for it\n")
    if not kept["is_whole"]:
        sys.stdout.write(f"{row.name}: broken off before all was measured\n")


def summary(rows: Sequence[Row], kept: Mapping[str, Any], table: Table = reporting.table) -> None:
    """Print all aims, and what came of them."""
    lines = [
        (row.name, f"{aim['says']}: {aim['bound']}", _measured(aim["measured"]), _MET[aim["is_met"]])
        for row in rows
        if row.name in kept
        for aim in keeping.aims(row, kept[row.name]["runs"])
    ]
    table("Aims", ("row", "aim", "measured (median, min to max)", "met?"), lines)
    for row in rows:
        if row.name not in kept:
            sys.stdout.write(f"\n{row.name}: not measured\n")


def chart(name: str, rows: Sequence[Row], kept: Mapping[str, Any]) -> None:
    """Draw one figure: a line of panels for each row, one for each group."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    there = [row for row in rows if kept.get(row.name, {}).get("figures")]
    if not there:
        return
    most = max(len(kept[row.name]["figures"]) for row in there)
    heights = [0.9 + 0.24 * max(len(arms) for arms in kept[row.name]["figures"].values()) for row in there]
    figure = plt.figure(figsize=(1.5 + 5.2 * most, sum(heights) + 0.8), layout="constrained")
    figure.suptitle(f"A store {FIRST_BYTE_MS} ms away, {MB_PER_S} MB/s per connection; ours in blue", fontsize=12)
    parts: Any = figure.subfigures(len(there), 1, height_ratios=heights, squeeze=False)
    for (part,), row in zip(parts, there, strict=True):
        groups = kept[row.name]["figures"]
        what, unit = row.chart
        part.suptitle(row.title, fontsize=10, x=0.01, ha="left", fontweight="bold")
        axes = part.subplots(1, most, squeeze=False)[0]
        for axis in axes[len(groups) :]:
            axis.set_visible(False)
        for axis, (group, arms) in zip(axes, groups.items(), strict=False):
            _panel(axis, f"{group}: {unit}", {arm: each[what] for arm, each in _sorted(row, arms) if what in each})
    path = reporting.RESULTS / f"{name}.png"
    figure.savefig(path, dpi=100)
    plt.close(figure)
    sys.stdout.write(f"written: {path}\n")


def _panel(axis: Any, title: str, arms: Mapping[str, Mapping[str, float]]) -> None:
    names = list(arms)[::-1]
    values = [_median(arms[name]) or 0.0 for name in names]
    colours = ["#3b6ea5" if name.startswith(("holdshort", "prefetching", "save", "deferred")) else "#b8b8b8"
               for name in names]  # fmt: skip
    least = [value - arms[name].get("min", value) for name, value in zip(names, values, strict=True)]
    most = [arms[name].get("max", value) - value for name, value in zip(names, values, strict=True)]
    drawn = axis.barh(names, values, color=colours, xerr=(least, most), error_kw={"lw": 0.8, "ecolor": "#444444"})
    labels = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values]
    axis.bar_label(drawn, labels, fontsize=7, padding=4)
    axis.margins(x=0.15)
    axis.set_title(title, fontsize=9)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def _sorted(row: Row, arms: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(arm, arms[arm]) for arm in row.arms if arm in arms]


def _runs(kept: Mapping[str, Any], group: str, arm: str) -> str:
    count, repeats = len(kept["runs"][group][arm]), kept["repeats"]
    return str(count) if count == repeats else f"{count} of {repeats}"


def _cell(column: Column, figure: Mapping[str, float] | None) -> str:
    if figure is None:
        return ""
    if column.is_total:
        return f"{figure['total']:,.{column.digits}f}"
    told = f"{figure['median']:,.{column.digits}f}"
    spread = f" ({figure['min']:,.{column.digits}f} to {figure['max']:,.{column.digits}f})"
    return told + spread if column.has_spread and figure["runs"] > 1 else told


def _median(figure: Mapping[str, float] | None) -> float | None:
    return None if figure is None else figure.get("median", figure.get("total"))


def _measured(figure: Mapping[str, float] | None) -> str:
    if figure is None:
        return "–"
    if figure["runs"] == 1:
        return f"{figure['median']:,.3g}" if figure["median"] < 1000 else f"{figure['median']:,.0f}"
    return f"{figure['median']:.3g} ({figure['min']:.3g} to {figure['max']:.3g})"


_PAGE = """# Storage figures

Written by `python benchmarks/storage.py --page`. What rows, arms and columns are: [Benchmarks](benchmarks.md#storage-row-by-row).

![All rows](../../benchmarks/results/storage.png)"""  # noqa: E501
_MET = {True: "yes", False: "no", None: "not measured"}
