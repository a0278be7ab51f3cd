"""The process that receives lane signals from other hosts."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Annotated

import typer


def lane_relay(
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Copy lane signals of other hosts into this host's maps. Workers start it themselves.

    Example: `holdshort lane-relay`
    """
    # Many of these wait for one to die, so nothing heavy is imported before it is known whose turn it is.
    from ..jobs.settings import Settings
    from ..workers.lane.relay import run_relay
    from ..workers.parent import when_parent_leaves
    from .output import start_logging

    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        # A signal to all processes of a service reaches us too, but our worker goes on for a while: so do we.
        if not with_parent:
            stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    start_logging(verbose=verbose)
    settings = Settings.load()
    if with_parent:
        when_parent_leaves(stop.set)
    run_relay(settings, stop)
