"""The command tree. Commands import what they need when they run, so `--help` is quick."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from . import cache, chat, checkpoints, gateway, jobs, lane, models, pools, probe, profiles, relay, running

app = typer.Typer(
    name="holdshort",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Batch inference that holds short of live traffic.",
    epilog="Exit codes: 0 done · 1 failed · 2 usage · 3 refused · 4 not found · 5 ended, but not every row is ok · "
    "6 store, broker or model away · 7 configuration · 130 interrupted",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"holdshort {version('holdshort')}")
        raise typer.Exit


@app.callback()
def common(
    broker: Annotated[
        str | None,
        typer.Option(help="Broker URL; overrides HOLDSHORT_BROKER and holdshort.toml.", show_default=False),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(help="Store URL or folder; overrides HOLDSHORT_STORE and holdshort.toml.", show_default=False),
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="Configuration file; overrides HOLDSHORT_CONFIG.", show_default=False)
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    # Through the environment, so that processes that a command starts see the same.
    for name, value in (
        ("HOLDSHORT_BROKER", broker),
        ("HOLDSHORT_STORE", store),
        ("HOLDSHORT_CONFIG", config),
    ):
        if value is not None:
            os.environ[name] = value


for command in (jobs.submit, jobs.jobs, jobs.status, jobs.results, jobs.why, jobs.cancel, jobs.pause, jobs.resume,
                jobs.retry, jobs.recover):  # fmt: skip
    app.command(rich_help_panel="Jobs")(command)
for command in (pools.pools, pools.hold, pools.clear):
    app.command(rich_help_panel="Pools and lanes")(command)
for command in (running.up, running.worker, running.controller, running.watch, running.doctor, running.demo,
                gateway.gateway, probe.probe, chat.chat):  # fmt: skip
    app.command(rich_help_panel="Running")(command)
app.command("lane-relay", hidden=True)(relay.lane_relay)
app.add_typer(models.app, name="models", rich_help_panel="Running")
app.add_typer(lane.app, name="lane", rich_help_panel="Pools and lanes")
app.add_typer(profiles.app, name="profile", rich_help_panel="Storage")
app.add_typer(cache.app, name="cache", rich_help_panel="Storage")
app.add_typer(checkpoints.app, name="checkpoint", rich_help_panel="Jobs")
