"""Commands on checkpoints."""

from __future__ import annotations

from dataclasses import asdict
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

app = typer.Typer(no_args_is_help=True, help="Copy checkpoints into the store, list and verify them.")


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
    from ..storage.checkpoints import read_manifest, steps
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
    from ..storage.checkpoints import read_manifest
    from ..storage.checkpoints import verify as check
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
