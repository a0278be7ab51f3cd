"""Commands on checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .exits import Exit
from .jobs import AsJson, follow


def _checked(name: str) -> str:
    from ..jobs.spec import check_name

    try:
        return check_name(name)
    except ValueError as error:
        raise typer.BadParameter(f"{name!r} {error}") from error


Name = Annotated[str, typer.Argument(help="What the checkpoints belong to, e.g. a training run.", callback=_checked)]

app = typer.Typer(no_args_is_help=True, help="Copy checkpoints into the store and back; list, verify and prune them.")


@app.command()
def save(
    pool: Annotated[str, typer.Argument(help="The pool whose workers copy.")],
    source: Annotated[str, typer.Argument(help="The checkpoint's folder; the workers must see it.")],
    name: Annotated[str, typer.Option(help="What the checkpoint belongs to, e.g. a training run.")],
    step: Annotated[int, typer.Option(help="Its step.", min=0)],
    priority: Annotated[str, typer.Option("--priority", "-p", help="bulk, standard, urgent, or 0 to 9.")] = "standard",
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the end, showing progress.")] = False,
    json: AsJson = False,
) -> None:
    """Copy a checkpoint folder into the store; it becomes visible there when all of it is.

    Example: `holdshort checkpoint save embed runs/7/step-1000 --name run-7 --step 1000 --wait`
    """
    from ..jobs import CheckpointJob, Client

    level = int(priority) if priority.isdigit() else priority
    job = CheckpointJob.model_validate({"pool": pool, "source": source, "name": name, "step": step, "priority": level})
    with Client() as client:
        follow(client.submit(job), wait=wait, json=json)


@app.command("list")
def list_(name: Name, json: AsJson = False) -> None:
    """List committed checkpoints.

    Example: `holdshort checkpoint list run-7`
    """
    from ..jobs import Client
    from ..storage.checkpoints.manifest import read_manifest, steps
    from .output import print_json, print_table

    with Client() as client:
        store = client.ledger.store
        found = [read_manifest(store, name, step) for step in steps(store, name)]
    if json:
        print_json([asdict(manifest) for manifest in found])
        return
    rows = ((str(m.step), str(len(m.files)), f"{sum(file.size_bytes for file in m.files):,}", m.attempt) for m in found)
    print_table(("step", "files", "bytes", "job"), rows, empty=f"No checkpoint of {name} is committed.")


@app.command()
def verify(
    name: Name,
    step: Annotated[int, typer.Argument(help="Its step.", min=0)],
    json: AsJson = False,
) -> None:
    """Read a checkpoint's files and compare sizes and checksums with its manifest.

    Example: `holdshort checkpoint verify run-7 1000`
    """
    from ..jobs import Client
    from ..storage.checkpoints.manifest import read_manifest
    from ..storage.checkpoints.manifest import verify as check
    from .output import note, print_json, say

    with Client() as client:
        store = client.ledger.store
        wrong = {file.path: problem for file, problem in check(store, read_manifest(store, name, step)) if problem}
    if json:
        print_json({"name": name, "step": step, "ok": not wrong, "problems": wrong})
    for path, problem in () if json else wrong.items():
        note(f"{path} {problem}")
    if wrong:
        raise typer.Exit(Exit.FAILED)
    if not json:
        say(f"step {step} of {name} is whole")


@app.command()
def restore(
    name: Name,
    folder: Annotated[Path, typer.Argument(help="Where to; must not exist yet, or be empty.")],
    step: Annotated[
        int | None, typer.Option(help="Which step; by default the newest that is whole.", min=0, show_default=False)
    ] = None,
    json: AsJson = False,
) -> None:
    """Copy a checkpoint out of the store; the folder appears once all files are there and verified.

    Example: `holdshort checkpoint restore run-7 runs/7/resumed`
    """
    from ..jobs import Client
    from ..storage.checkpoints.restoring import restore as restored
    from .output import note, print_json, say

    with Client() as client, _bar(f"restoring {name}", quiet=json) as progress:
        found = restored(client.ledger.store, name, folder, step=step, progress=progress)
    size_bytes = sum(file.size_bytes for file in found.manifest.files)
    if json:
        passed_over = [{"step": number, "problem": why} for number, why in found.passed_over]
        print_json(
            {"name": name, "step": found.manifest.step, "folder": str(found.folder), "files": len(found.manifest.files),
             "bytes": size_bytes, "passed_over": passed_over}
        )  # fmt: skip
        return
    for number, why in found.passed_over:
        note(f"step {number} is not whole ({why}), so an older one was taken")
    files = len(found.manifest.files)
    say(f"step {found.manifest.step} of {name}: {files} files, {size_bytes:,} bytes in {found.folder}")


@app.command()
def prune(
    name: Name,
    keep_last: Annotated[int, typer.Option(help="Keep so many of the newest steps.", min=1)],
    keep_every: Annotated[
        int | None, typer.Option(help="Keep each step that is a multiple of this, too.", min=1, show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json: AsJson = False,
) -> None:
    """Remove old checkpoints from the store.

    Example: `holdshort checkpoint prune run-7 --keep-last 3 --keep-every 1000`
    """
    from ..jobs import Client
    from ..storage.checkpoints.restoring import prune as pruned
    from .output import print_json, say

    with Client() as client:
        gone = pruned(client.ledger.store, name, keep_last=keep_last, keep_every=keep_every, really=not dry_run)
    if json:
        print_json({"name": name, "removed": gone, "dry_run": dry_run})
    elif gone:
        say(f"{'would remove' if dry_run else 'removed'} {len(gone)} steps of {name}: {', '.join(map(str, gone))}")
    else:
        say(f"no step of {name} is to go")


@contextmanager
def _bar(what: str, *, quiet: bool) -> Generator[Callable[[int, int], None]]:
    """Progress in bytes on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    bars = Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
        console=console, disable=quiet or not console.is_terminal, transient=True,
    )  # fmt: skip
    with bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
