"""Commands on pools and their lanes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from .jobs import AsJson

Pool = Annotated[str, typer.Argument(help="A pool's name.", metavar="POOL")]


def pools(json: AsJson = False) -> None:
    """Show the configured pools: workers alive, queue depth, backlog.

    Example: `holdshort pools`
    """
    from ..jobs import Client
    from .output import print_json, print_table, span

    with Client() as client:
        found = client.pools()
    if json:
        print_json(
            [
                {
                    "name": pool.name,
                    "engine": pool.settings.engine,
                    "workers": [asdict(worker) for worker in pool.workers],
                    "lane": "hold" if pool.held_because else "clear",
                    "hold": asdict(pool.hold) if pool.hold else None,
                    "queue_depth": pool.depth,
                    "active_jobs": pool.active_jobs,
                    "rows_left": pool.rows_left,
                    "backlog_s": pool.backlog_s,
                }
                for pool in found
            ]
        )
        return
    columns = ("pool", "engine", "workers", "lane", "in queue", "jobs", "rows left", "backlog")
    rows = (
        (
            pool.name,
            pool.settings.engine,
            str(len(pool.workers)) if pool.workers else "none",
            f"hold: {pool.held_because}" if pool.held_because else "clear",
            "broker away" if pool.depth is None else str(pool.depth),
            str(pool.active_jobs),
            str(pool.rows_left),
            "unknown" if pool.backlog_s is None else span(pool.backlog_s),
        )
        for pool in found
    )
    print_table(columns, rows, empty="No pool is configured.")


def hold(
    pool: Pool,
    for_: Annotated[
        str | None,
        typer.Option("--for", help="How long, e.g. 10m; without it, until `clear`.", show_default=False),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; shown to everyone who waits.")] = "",
    json: AsJson = False,
) -> None:
    """Let batch work on a pool stand still.

    Example: `holdshort hold embed --for 10m --reason "load test"`
    """
    from ..jobs import Client
    from ..jobs.spec import duration_s
    from .output import note, print_json

    try:
        seconds = None if for_ is None else duration_s(for_)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--for") from error
    with Client() as client:
        set_hold = client.hold(pool, for_s=seconds, reason=reason)
    if json:
        print_json(asdict(set_hold))
    else:
        note(f"pool {pool} holds" + (f" for {for_}" if for_ else " until `holdshort clear`"))


def clear(pool: Pool, json: AsJson = False) -> None:
    """Take an operator's hold off a pool.

    Example: `holdshort clear embed`
    """
    from ..jobs import Client
    from .output import note, print_json

    with Client() as client:
        changed = client.clear(pool)
    if json:
        print_json({"pool": pool, "changed": changed})
    else:
        note(f"pool {pool} is clear" if changed else f"pool {pool} was not held")
