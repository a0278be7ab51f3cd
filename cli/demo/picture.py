"""lane.png: tokens above, micro-batches below, holds shaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .figures import quantile
from .report import TITLES, measured_on, notes
from .show import Shown
from .timeline import Strip, timeline

_COLOURS = {"alone": "#2a74b5", "unprotected": "#c5402a", "holdshort": "#188055"}
_BATCH, _LOST, _SOFT, _LINE = "#6b757d", "#c5402a", "#5a656e", "#dfe4e8"
_HOW = (
    "Rings: first token since its request was due, at that time. Dots: each later token since the one before. "
    "Dashed: p95 of the chat alone.\nBelow: micro-batches, as high as they took long (red: stopped for a hold, ran "
    "again). Green: the lane is held."
)


def draw(shown: Shown, described: dict[str, Any], path: Path) -> None:
    """Draw it into a file."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    plt: Any = pyplot  # its types are partly unknown

    line = timeline(shown)
    figure, (above, below) = plt.subplots(
        2, 1, sharex=True, figsize=(13, 8), gridspec_kw={"height_ratios": [4.4, 1], "hspace": 0.05}
    )
    longest_ms = 1050 * (
        quantile([v for strip in line.strips for _, v in (*strip.batches, *strip.lost)], 0.995) or 0.05
    )
    for strip, phase in zip(line.strips, shown.phases, strict=True):
        _strip(above, below, strip)
        place = {"transform": above.get_xaxis_transform(), "ha": "left", "va": "bottom"}
        above.text(strip.start, 1.135, TITLES[strip.name], color=_COLOURS[strip.name], weight="bold", size=11, **place)
        above.text(strip.start, 1.015, "\n".join(notes(phase)), color=_SOFT, size=9, linespacing=1.35, **place)
        above.plot(
            [strip.start, strip.end], [1, 1], color=_COLOURS[strip.name], linewidth=3, solid_capstyle="butt",
            transform=above.get_xaxis_transform(), clip_on=False,
        )  # fmt: skip
    for seconds in line.alone_p95:
        above.axhline(seconds * 1000, color=_COLOURS["alone"], linewidth=0.9, linestyle=(0, (3, 4)), zorder=1)
    if line.killed is not None:
        for axis in (above, below):
            axis.axvline(line.killed, color="#1a2026", linewidth=1.1, linestyle=(0, (4, 3)))
        above.text(line.killed, 0.015, " worker killed", transform=above.get_xaxis_transform(), size=8.5)
    above.set_yscale("log")
    if not any(strip.firsts or strip.gaps for strip in line.strips):
        above.set_ylim(1, 10_000)
    above.set_ylabel("milliseconds (log)", color=_SOFT)
    above.yaxis.set_major_formatter(_number)
    below.set_ylim(0, longest_ms)
    below.set_ylabel("micro-\nbatches, ms", color=_SOFT)
    _time_axis(below, line.strips)
    for axis in (above, below):
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.spines["bottom"].set_color(_LINE)
        axis.tick_params(colors=_SOFT, which="both", length=0)
        axis.margins(x=0.005)
    above.grid(axis="y", color=_LINE, linewidth=0.7)
    above.set_axisbelow(True)
    figure.text(0.065, 0.115, _HOW, size=8.5, color=_SOFT, va="top", linespacing=1.5)
    figure.text(0.065, 0.062, "\n".join(measured_on(described)), size=7, color=_SOFT, va="top", linespacing=1.4)
    figure.subplots_adjust(left=0.065, right=0.99, top=0.865, bottom=0.165)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _strip(above: Any, below: Any, strip: Strip) -> None:
    """One phase."""
    for axis in (above, below):
        axis.axvspan(strip.start, strip.end, color="#f6f7f8", linewidth=0, zorder=0)
        for begin, end in strip.holds:
            axis.axvspan(begin, end, color=_COLOURS["holdshort"], alpha=0.13, linewidth=0, zorder=0.5)
    colour = _COLOURS[strip.name]
    above.scatter(*_points(strip.gaps), s=6, color=colour, alpha=0.5, linewidths=0, zorder=2)
    above.scatter(*_points(strip.firsts), s=34, facecolors="none", edgecolors=colour, linewidths=1.2, zorder=3)
    for found, tint in ((strip.batches, _BATCH), (strip.lost, _LOST)):
        starts, tall_ms = _points(found)
        below.bar(starts, tall_ms, width=[ms / 1000 for ms in tall_ms], align="edge", color=tint, linewidth=0)


def _time_axis(axis: Any, strips: list[Strip]) -> None:
    """Seconds of each phase from its own beginning."""
    ticks = [
        (strip.start + second, f"{second} s")
        for strip in strips
        for second in range(0, max(1, int(strip.end - strip.start)), 10)
    ]
    axis.set_xticks([at for at, _ in ticks], [told for _, told in ticks])


def _number(value: float, place: int) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _points(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Times, and milliseconds."""
    return [at for at, _ in points], [seconds * 1000 for _, seconds in points]
