"""lane.png: tokens above, micro-batches below, holds shaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .figures import figures
from .report import TITLES, cells
from .show import Shown
from .timeline import timeline

_COLOURS = {"alone": "#2a78b8", "unprotected": "#c8442d", "holdshort": "#1f8a5b"}


def draw(shown: Shown, described: dict[str, Any], path: Path) -> None:
    """Draw it into a file."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    plt: Any = pyplot  # its types are partly unknown

    line = timeline(shown)
    figure, (above, below) = plt.subplots(
        2, 1, sharex=True, figsize=(13, 6.6), gridspec_kw={"height_ratios": [4, 1], "hspace": 0.06}
    )
    for strip, phase in zip(line.strips, shown.phases, strict=True):
        colour = _COLOURS[strip.name]
        for begin, end in strip.holds:
            for axis in (above, below):
                axis.axvspan(begin, end, color="#1f8a5b", alpha=0.10, linewidth=0)
        above.scatter(*_xy(strip.gaps), s=5, color=colour, alpha=0.55, linewidths=0)
        above.scatter(*_xy(strip.firsts), s=34, facecolors="none", edgecolors=colour, linewidths=1.2)
        below.bar(
            [x for x, _ in strip.batches], 1, width=[w for _, w in strip.batches], align="edge", color="#555", lw=0
        )
        below.bar([x for x, _ in strip.lost], 1, width=[w for _, w in strip.lost], align="edge", color="#c8442d", lw=0)
        first, token, documents = cells(figures(phase))
        middle = (strip.start + strip.end) / 2
        above.text(
            middle, 1.02, f"{TITLES[strip.name]}\nfirst {first}\ntoken {token}\n{documents} documents/s",
            transform=above.get_xaxis_transform(), ha="center", va="bottom", fontsize=9, color=colour,
        )  # fmt: skip
    if line.killed is not None:
        for axis in (above, below):
            axis.axvline(line.killed, color="#111", linewidth=1, linestyle="--")
        above.text(line.killed, 0.02, " worker killed", transform=above.get_xaxis_transform(), fontsize=8)
    above.set_yscale("log")
    above.set_ylabel("milliseconds (log)")
    above.yaxis.set_major_formatter(_milliseconds)
    below.set_yticks([])
    below.set_ylabel("micro-\nbatches")
    below.set_xlabel("seconds · dots: time per token · rings: first token from its scheduled time · green: batch holds")
    for axis in (above, below):
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.01)
    versions = ", ".join(f"{name} {found}" for name, found in described["packages"].items() if found)
    where = f"{described['cpu']}, {described['cores']} cores · {described['models']}"
    figure.text(
        0.5, 0.005, f"{where} · {described['chat']}\n{versions}",
        ha="center", fontsize=7, color="#666",
    )  # fmt: skip
    figure.subplots_adjust(left=0.07, right=0.99, top=0.84, bottom=0.13)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _milliseconds(value: float, position: int) -> str:
    return f"{value * 1000:,.0f}"


def _xy(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
