"""Commands on lanes: who holds them, since when and why, and what batch work gets meanwhile."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from .jobs import AsJson
from .output import cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console, RenderableType
    from rich.table import Table

    from ..jobs.presence import Beat
    from ..workers.lane.overview import Overview, PoolLane

_REFRESH_S = 0.25
_HELP = ("--help", "-h")


class _ShowByDefault(TyperGroup):
    """`holdshort lane` and `holdshort lane POOL` mean `holdshort lane show …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in _HELP):
            args = ["show", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_ShowByDefault,
    help="Show who holds a pool's lane, since when and why. Example: `holdshort lane embed`",
    epilog="`holdshort lane [POOL]` is short for `holdshort lane show [POOL]`.",
)


@app.command()
def show(
    pool: Annotated[
        str | None, typer.Argument(help="A pool's name; all without it.", metavar="[POOL]", show_default=False)
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Show it once, also on a terminal.")] = False,
    json: AsJson = False,
) -> None:
    """Show lanes: who holds them, since when, why; live latency, batch rate, harvest. Live on a terminal.

    Example: `holdshort lane show embed`
    """
    from .output import print_json

    overview = _open(pool)
    if json:
        print_json({found.pool: found.as_dict() for found in overview.look()})
    elif once or not sys.stdout.isatty():
        _console().print(_picture(overview.look()))
    else:
        _live(overview)


@app.command()
def dismiss(
    source: Annotated[str, typer.Argument(help="The name of a source that is lost, as `holdshort lane` shows it.")],
    pool: Annotated[str | None, typer.Option("--pool", "-p", help="On this pool only.", show_default=False)] = None,
    json: AsJson = False,
) -> None:
    """Overlook a source that fell silent without goodbye, so that batch work goes on at once.

    Example: `holdshort lane dismiss gateway`
    """
    from ..jobs import Settings
    from ..storage.errors import NotAllowedNow
    from ..workers.lane.dismissing import dismiss_source
    from .output import note, print_json

    settings = Settings.load()
    pools = [pool] if pool else list(settings.pools)
    for name in pools:
        settings.pool(name)
    alive, dismissed = dismiss_source(settings, pools, source)
    if alive:
        raise NotAllowedNow(
            f"Source {source} is alive on pool {', '.join(alive)} and would hold again. End the process that it "
            f"belongs to, or let it say clear."
        )
    if json:
        print_json({"source": source, "dismissed": dismissed})
    elif dismissed:
        note(f"source {source} is overlooked on pool {', '.join(dismissed)} until it beats again")
    else:
        note(f"no source {source} was lost")


def _open(pool: str | None) -> Overview:
    from ..jobs import Settings
    from ..storage.opening import open_store
    from ..workers.lane.overview import Overview

    settings = Settings.load()
    store = open_store(settings.store, fsync=settings.fsync, storage_options=settings.store_options)
    return Overview(settings, store, [pool] if pool else list(settings.pools))


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 200)


def _live(overview: Overview) -> None:
    from rich.live import Live

    with Live(_picture(overview.look()), console=_console(), refresh_per_second=4, screen=False) as live:
        while True:
            time.sleep(_REFRESH_S)
            live.update(_picture(overview.look()))


def _picture(found: Sequence[PoolLane]) -> RenderableType:
    from rich.console import Group

    return Group(*(_pool(lane) for lane in found))


def _pool(lane: PoolLane) -> RenderableType:
    from rich import box
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    reading = lane.reading
    held = reading.signal == "hold"
    head = Text(f" {reading.signal} ", style="bold white on red" if held else "bold white on green")
    head.append(f"  for {_short(time.monotonic() - reading.since)}" if reading.since else "", style="default")
    head.append(f"  {reading.source}: {reading.reason}" if reading.source else f"  {reading.reason}")
    if not held and reading.headroom < 1.0:
        head.append(f"  headroom {reading.headroom:.0%}")
    if reading.until is not None:
        head.append(f"  for another {_short(reading.until - time.monotonic())}")
    parts: list[RenderableType] = [head]
    if lane.sources:
        parts.append(_sources(lane))
    parts.append(
        _workers(lane) if lane.workers else Text(f"no worker is alive; start one: holdshort worker {lane.pool}")
    )
    return Panel(Group(*parts), title=f"pool {lane.pool}", title_align="left", box=box.ROUNDED)


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _sources(lane: PoolLane) -> Table:
    table = _table("source", "says", "for", "why", "live", "first byte p50 / p95", "gap p50 / p95", "heard")
    for state in lane.sources:
        reading, figures = state.reading, state.figures
        says = "overlooked" if reading is None else "lost: hold" if reading.is_lost else reading.signal
        if reading is not None and reading.signal == "clear" and reading.headroom < 1.0:
            says += f" {reading.headroom:.0%}"
        row = (
            state.name + (f" @{state.device}" if state.device else ""),
            says,
            _short(time.monotonic() - reading.since) if reading else "",
            reading.reason if reading else "",
            str(figures.in_flight),
            _pair(figures.first_byte_p50_s, figures.first_byte_p95_s),
            _pair(figures.gap_p50_s, figures.gap_p95_s),
            "never" if math.isinf(state.heard_s) else f"{_short(state.heard_s)} ago",
        )
        table.add_row(*cells(row))
    return table


def _workers(lane: PoolLane) -> Table:
    table = _table("worker", "does", "rows/s", "yields", "yield p50 / p95", "held", "lost", "harvest")
    for beat in lane.workers:
        row = (
            f"{beat.host}:{beat.pid}" + (f" @{beat.device}" if beat.device else ""),
            beat.state,
            f"{beat.rows_per_s:.1f}",
            f"{beat.totals.get('yields', 0):.0f}",
            _pair(beat.yield_p50_s, beat.yield_p95_s),
            _short(beat.totals.get("hold_s", 0.0)),
            f"{beat.totals.get('lost_s', 0.0):.1f} s, {beat.totals.get('lost_rows', 0):.0f} rows again",
            _harvest(lane, beat),
        )
        table.add_row(*cells(row))
    return table


def _harvest(lane: PoolLane, beat: Beat) -> str:
    share = lane.harvest(beat)
    return "" if share is None else f"{share:.0%} of the time left"


def _pair(p50_s: float | None, p95_s: float | None) -> str:
    if p50_s is None or p95_s is None:
        return ""
    return f"{p50_s * 1000:.0f} / {p95_s * 1000:.0f} ms"


def _short(seconds: float) -> str:
    from .output import span

    return f"{max(0.0, seconds):.1f}s" if seconds < 10 else span(seconds)
