"""Commands on checkpoints: each acts now, in this process, or with --pool as a job of that pool's workers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .exits import Exit
from .jobs import AsJson, follow

if TYPE_CHECKING:
    from ..jobs import Client


def _checked(name: str) -> str:
    from ..jobs.spec import check_name

    try:
        return check_name(name)
    except ValueError as error:
        hint = ". Name its store by holdshort --store, and here what it is called there" if "/" in name else ""
        raise typer.BadParameter(f"{name!r} {error}{hint}") from error


def _step(text: str) -> str:
    if text not in ("latest", "all") and not (text.isascii() and text.isdigit()):
        raise typer.BadParameter(f"{text!r} is no step; write its number, latest, or all")
    return text


Name = Annotated[str, typer.Argument(help="What the checkpoints belong to, e.g. a training run.", callback=_checked)]
Pool = Annotated[
    str | None,
    typer.Option(help="Let this pool's workers do it, as a job, instead of doing it here and now.", show_default=False),
]
Priority = Annotated[
    str | None,
    typer.Option(
        "--priority", "-p", help="Of the job: bulk, standard (the default), urgent, or 0 to 9.", show_default=False
    ),
]
Wait = Annotated[bool, typer.Option("--wait", "-w", help="Wait for the job's end, showing progress.")]

app = typer.Typer(
    no_args_is_help=True, help="Copy checkpoints into the store and back; list, verify, prune and replicate them."
)


@app.command()
def save(
    name: Name,
    source: Annotated[str, typer.Argument(help="The checkpoint's folder, or its URL.")],
    step: Annotated[int, typer.Option(help="Its step.", min=0)],
    pool: Pool = None,
    priority: Priority = None,
    wait: Wait = False,
    json: AsJson = False,
) -> None:
    """Copy a checkpoint folder into the store; it becomes visible there when all of it is.

    Example: `holdshort checkpoint save run-7 runs/7/step-1000 --step 1000`
    """
    from ..jobs import Client
    from ..jobs.identity import new_id
    from ..storage.checkpoints.copying import copy_folder
    from .output import bytes_bar, print_json, say

    with Client() as client:
        if _submitted(client, pool, priority, wait=wait, json=json, action="save", name=name, source=source, step=step):
            return
        with bytes_bar(f"saving {name}", quiet=json) as progress:
            found = copy_folder(client.ledger.store, source, name, step, attempt=new_id(), progress=progress)
    size_bytes = sum(file.size_bytes for file in found.files)
    if json:
        print_json({"name": name, "step": step, "files": len(found.files), "bytes": size_bytes})
    else:
        say(f"step {step} of {name}: {len(found.files)} files, {size_bytes:,} bytes in the store")


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
    step: Annotated[str, typer.Argument(help="Its step, latest, or all.", metavar="[STEP]", callback=_step)] = "all",
    pool: Pool = None,
    priority: Priority = None,
    wait: Wait = False,
    json: AsJson = False,
) -> None:
    """Read the files of checkpoints and compare sizes and checksums with their manifests.

    Example: `holdshort checkpoint verify run-7 1000`
    """
    from ..jobs import Client
    from ..storage.checkpoints.manifest import read_manifest, steps
    from ..storage.checkpoints.manifest import verify as check
    from ..storage.errors import ObjectNotFound
    from .output import bytes_bar, note, print_json, say

    with Client() as client:
        if _submitted(client, pool, priority, wait=wait, json=json, action="verify", name=name, step=_number(step)):
            return
        store = client.ledger.store
        wanted = _wanted(step, steps(store, name))
        if not wanted:
            raise ObjectNotFound(f"The store {store.url} holds no checkpoint of {name}.")
        manifests = [read_manifest(store, name, number) for number in wanted]
        total, done = sum(file.size_bytes for manifest in manifests for file in manifest.files), 0
        wrong: dict[int, dict[str, str]] = {}
        with bytes_bar(f"verifying {name}", quiet=json) as progress:
            for manifest in manifests:
                problems = wrong[manifest.step] = {}
                for file, problem in check(store, manifest):
                    done += file.size_bytes
                    progress(done, total)
                    if problem:
                        problems[file.path] = problem
    is_whole = not any(wrong.values())
    if json:
        steps_found = [{"step": number, "ok": not found, "problems": found} for number, found in wrong.items()]
        one = {"step": wanted[0], "problems": wrong[wanted[0]]} if len(wanted) == 1 else {}
        print_json({"name": name, "ok": is_whole, **one, "steps": steps_found})
    else:
        for number, problems in wrong.items():
            for path, problem in problems.items():
                note(f"step {number}: {path} {problem}")
            if not problems:
                say(f"step {number} of {name} is whole")
    if not is_whole:
        raise typer.Exit(Exit.FAILED)


@app.command()
def restore(
    name: Name,
    folder: Annotated[
        Path | None, typer.Argument(help="Where to; must not exist yet, or be empty.", show_default=False)
    ] = None,
    step: Annotated[
        int | None, typer.Option(help="Which step; by default the newest that is whole.", min=0, show_default=False)
    ] = None,
    warm: Annotated[
        bool, typer.Option("--warm", help="Instead of a folder, fill this node's cache, for whoever reads next.")
    ] = False,
    pool: Pool = None,
    priority: Priority = None,
    wait: Wait = False,
    json: AsJson = False,
) -> None:
    """Copy a checkpoint out of the store; the folder appears once all files are there and verified.

    Examples: `holdshort checkpoint restore run-7 runs/7/resumed`, `holdshort checkpoint restore run-7 --warm`
    """
    from ..jobs import Client
    from ..storage.checkpoints.restoring import restore as restored
    from ..storage.checkpoints.warming import warm as warmed
    from .output import bytes_bar, note, print_json, say

    if (folder is None) is not warm:
        raise typer.BadParameter("name a folder, or say --warm to fill this node's cache", param_hint="FOLDER")
    with Client() as client:
        to = None if folder is None else str(folder)
        if _submitted(client, pool, priority, wait=wait, json=json, action="restore", name=name, to=to, step=step):
            return
        store = client.ledger.store
        with bytes_bar(f"{'warming' if warm else 'restoring'} {name}", quiet=json) as progress:
            if folder is None:
                cached = warmed(store, name, step=step, progress=progress)
                manifest, passed_over, where = cached.manifest, cached.passed_over, f"the cache, {cached.cache}"
                told: dict[str, Any] = {"cache": str(cached.cache), "fetched_bytes": cached.fetched_bytes}
            else:
                found = restored(store, name, folder, step=step, progress=progress)
                manifest, passed_over, where = found.manifest, found.passed_over, str(found.folder)
                told = {"folder": where}
    size_bytes = sum(file.size_bytes for file in manifest.files)
    if json:
        problems = [{"step": number, "problem": why} for number, why in passed_over]
        print_json(
            {"name": name, "step": manifest.step, **told, "files": len(manifest.files), "bytes": size_bytes,
             "passed_over": problems}
        )  # fmt: skip
        return
    for number, why in passed_over:
        note(f"step {number} is not whole ({why}), so an older one was taken")
    say(f"step {manifest.step} of {name}: {len(manifest.files)} files, {size_bytes:,} bytes in {where}")


@app.command()
def prune(
    name: Name,
    keep_last: Annotated[int, typer.Option(help="Keep so many of the newest steps.", min=1)],
    keep_every: Annotated[
        int | None, typer.Option(help="Keep each step that is a multiple of this, too.", min=1, show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    pool: Pool = None,
    priority: Priority = None,
    wait: Wait = False,
    json: AsJson = False,
) -> None:
    """Remove old checkpoints from the store.

    Example: `holdshort checkpoint prune run-7 --keep-last 3 --keep-every 1000`
    """
    from ..jobs import Client
    from ..storage.checkpoints.restoring import prune as pruned
    from .output import print_json, say

    if pool is not None and dry_run:
        raise typer.BadParameter("it looks here and now; leave --pool out", param_hint="--dry-run")
    with Client() as client:
        if _submitted(
            client, pool, priority, wait=wait, json=json,
            action="prune", name=name, keep_last=keep_last, keep_every=keep_every,
        ):  # fmt: skip
            return
        gone = pruned(client.ledger.store, name, keep_last=keep_last, keep_every=keep_every, really=not dry_run)
    if json:
        print_json({"name": name, "removed": gone, "dry_run": dry_run})
    elif gone:
        say(f"{'would remove' if dry_run else 'removed'} {len(gone)} steps of {name}: {', '.join(map(str, gone))}")
    else:
        say(f"no step of {name} is to go")


@app.command()
def replicate(
    name: Name,
    to: Annotated[str, typer.Argument(help="The other store: a folder or URL, as `--store` takes it.")],
    step: Annotated[str, typer.Option(help="Which step, latest, or all.", callback=_step)] = "latest",
    pool: Pool = None,
    priority: Priority = None,
    wait: Wait = False,
    json: AsJson = False,
) -> None:
    """Copy committed checkpoints to another store; each becomes visible there when all of it is.

    Example: `holdshort checkpoint replicate run-7 s3://backup/holdshort --step all`
    """
    from ..jobs import CheckpointJob, Client
    from ..jobs.checkpoints.places import Places
    from ..storage.checkpoints.copying import copy_step
    from ..storage.checkpoints.manifest import steps
    from ..storage.errors import ObjectNotFound
    from .output import bytes_bar, print_json, say

    with Client() as client:
        values: dict[str, Any] = {"action": "replicate", "name": name, "to": to, "step": _number(step)}
        if _submitted(client, pool, priority, wait=wait, json=json, **values):
            return
        job = CheckpointJob.model_validate({"pool": "none", **values})  # checks and completes the same
        store, target = client.ledger.store, Places.of(client.settings).store(str(job.to))
        if target.url == store.url:
            raise typer.BadParameter(f"{target.url} is the store that the checkpoint is in", param_hint="TO")
        wanted = _wanted(step, steps(store, name))
        if not wanted:
            raise ObjectNotFound(f"The store {store.url} holds no checkpoint of {name}.")
        copied: list[int] = []
        for number in wanted:
            with bytes_bar(f"replicating step {number} of {name}", quiet=json) as progress:
                if copy_step(store, target, name, number, progress=progress):
                    copied.append(number)
    there = [number for number in wanted if number not in copied]
    if json:
        print_json({"name": name, "to": target.url, "copied": copied, "there": there})
        return
    for number in wanted:
        say(f"step {number} of {name} {'was' if number in there else 'is'} in {target.url}")


# -- shared ----------------------------------------------------------------------------------------------


def _submitted(
    client: Client, pool: str | None, priority: str | None, *, wait: bool, json: bool, **values: Any
) -> bool:
    """Submit and follow a job, if a pool was named; False without one."""
    from ..jobs import CheckpointJob

    if pool is None:
        for given, option in ((priority, "--priority"), (wait, "--wait")):
            if given:
                raise typer.BadParameter("it is for a job; name its workers with --pool", param_hint=option)
        return False
    if priority is not None:
        values["priority"] = int(priority) if priority.isdigit() else priority
    given = {field: value for field, value in values.items() if value is not None}
    follow(client.submit(CheckpointJob.model_validate({"pool": pool, **given})), wait=wait, json=json)
    return True


def _number(step: str) -> int | str:
    return int(step) if step.isdigit() else step


def _wanted(step: str, committed: list[int]) -> list[int]:
    if step.isdigit():
        return [int(step)]
    return committed if step == "all" else committed[-1:]
