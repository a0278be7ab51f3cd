"""Commands that run something."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from .exits import Exit
from .jobs import AsJson

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")]


def up(
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
    verbose: Verbose = False,
    json: AsJson = False,
) -> None:
    """Run workers, the gateway, the controller and the folder triggers, as configured; Ctrl-C drains.

    Example: `holdshort up`
    """
    from ..jobs import Settings
    from ..workers.parent import leave_with_parent
    from ..workers.supervisor import Supervisor
    from .output import note, print_json, start_logging

    start_logging(verbose=verbose)
    settings = Settings.load()
    if with_parent:
        leave_with_parent()

    def ready() -> None:
        if json:
            print_json({"event": "started", "pools": list(settings.pools), "store": settings.store})
            sys.stdout.flush()
        else:
            note(f"holdshort is up: pools {', '.join(settings.pools)}; Ctrl-C parks what runs and leaves")

    raise typer.Exit(Supervisor(settings).run(ready=ready))


def worker(
    pool: Annotated[str, typer.Argument(help="The pool to work for.")],
    device: Annotated[
        str, typer.Option(help="Which of the pool's devices it is for (pools.POOL.devices).", show_default=False)
    ] = "",
    metrics: Annotated[
        str | None, typer.Option(help="Serve /metrics for Prometheus at host:port.", show_default=False)
    ] = None,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
    verbose: Verbose = False,
    json: AsJson = False,
) -> None:
    """Run one worker of a pool; SIGTERM or Ctrl-C parks what it does, a second Ctrl-C stops at once.

    Example: `holdshort worker embed`
    """
    from ..jobs import Settings
    from ..workers.parent import leave_with_parent
    from ..workers.serve import serve
    from .output import print_json, start_logging

    start_logging(verbose=verbose)
    settings = Settings.load()
    settings.pool(pool)
    if with_parent:
        leave_with_parent()
    if json:
        print_json({"event": "starting", "pool": pool})
        sys.stdout.flush()
    raise typer.Exit(serve(settings, pool, device=device, metrics=metrics))


def controller(verbose: Verbose = False, json: AsJson = False) -> None:
    """Run only the controller (`up` has one; of several, one leads).

    Example: `holdshort controller`
    """
    from ..jobs import Settings
    from ..jobs.controller import Controller
    from .output import print_json, start_logging

    start_logging(verbose=verbose)
    stop = _stop_at_signals()
    running = Controller(Settings.load())
    if json:
        print_json({"event": "started"})
        sys.stdout.flush()
    running.run(stop)


def watch(
    folder: Annotated[
        Path, typer.Argument(help="Files that are dropped here become jobs.", exists=True, file_okay=False)
    ],
    pool: Annotated[str, typer.Option("--pool", "-p", help="The pool to submit them to.")],
    verbose: Verbose = False,
    json: AsJson = False,
) -> None:
    """Turn files that are dropped into a folder into jobs.

    Example: `holdshort watch inbox/ --pool embed`
    """
    from ..jobs import Settings
    from ..jobs.triggers.folder import FolderTrigger
    from .output import note, print_json, start_logging

    start_logging(verbose=verbose)
    stop = _stop_at_signals()
    trigger = FolderTrigger(Settings.load(), folder, pool)
    if json:
        print_json({"event": "watching", "folder": str(folder), "pool": pool})
        sys.stdout.flush()
    else:
        note(f"watching {folder} for pool {pool}; Ctrl-C leaves")
    trigger.run(stop)


def doctor(json: AsJson = False) -> None:
    """Check the configuration, store, broker and engines, and say what to do.

    Example: `holdshort doctor`
    """
    from ..workers.doctor import examine
    from .output import print_json, print_table

    findings = examine()
    if json:
        print_json([{"what": f.what, "ok": f.ok, "found": f.found, "cure": f.cure} for f in findings])
    else:
        rows = (("ok" if f.ok else "NOT OK", f.what, f.found + (f"\n→ {f.cure}" if f.cure else "")) for f in findings)
        print_table(("", "what", "found"), rows, empty="")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(Exit.FAILED)


def demo(
    documents: Annotated[int, typer.Option(help="How many documents to index.", min=50)] = 900,
    seconds: Annotated[float, typer.Option(help="How long each of the three phases lasts.", min=5.0)] = 30.0,
    output: Annotated[Path, typer.Option(help="The folder for lane.png and lane.html.", file_okay=False)] = Path(),
    folder: Annotated[
        Path | None,
        typer.Option(help="Keep everything else in this folder instead of a temporary one.", show_default=False),
    ] = None,
    json: AsJson = False,
) -> None:
    """Let a chatbot and an indexing job share this machine: alone, unprotected, and with Holdshort. Takes 3 minutes.

    Real models, on the CPU; kills a worker on the way. Prints a table, draws lane.png and lane.html. Needs the extra
    `demo`.

    Example: `holdshort demo`
    """
    from .demo import run

    raise typer.Exit(run(documents=documents, seconds=seconds, output=output, folder=folder, json=json))


def _stop_at_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return stop
