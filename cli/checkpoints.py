"""Commands on checkpoints: each acts now, in this process, or with --pool as a job of that pool's workers."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .exits import Exit
from .jobs import AsJson, follow

if TYPE_CHECKING:
    from ..storage.store import Store


def _checked(name: str) -> str:
    from ..jobs.spec import check_name

    if _is_by_url(name):
        if "@" in _behind_prefix(name).partition("://")[2].partition("/")[0]:
            # It would be shown, by us and by `ps`.
            raise typer.BadParameter(
                "the URL must not carry a user name or password; the environment, or `replicas`, says how it is reached"
            )
        return name
    try:
        return check_name(name)
    except ValueError as error:
        hint = "; or be a run's URL, or its folder from / on" if "/" in name else ""
        raise typer.BadParameter(f"{name!r} {error}{hint}") from error


def _is_by_url(name: str) -> bool:
    return "://" in name or _behind_prefix(name).startswith(("/", "~"))


def _behind_prefix(url: str) -> str:
    """The URL or folder without the profile that may be named before it."""
    return url.rpartition("::")[2]


def _step(text: str) -> str:
    if text not in ("latest", "all") and not (text.isascii() and text.isdigit()):
        raise typer.BadParameter(f"{text!r} is no step; write its number, latest, or all")
    return text


Name = Annotated[
    str,
    typer.Argument(
        help="What the checkpoints belong to, e.g. a training run: its name in the store, or the URL or folder that "
        "training saves it to.",
        callback=_checked,
    ),
]
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
    from ..jobs.identity import new_id
    from ..storage.checkpoints.copying import copy_folder
    from .output import bytes_bar, print_json, say

    if _submitted(pool, priority, wait=wait, json=json, action="save", name=name, source=source, step=step):
        return
    with _place(name, is_made=True) as (store, run), bytes_bar(f"saving {name}", quiet=json) as progress:
        found = copy_folder(store, source, run, step, attempt=new_id(), progress=progress)
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
    from ..storage.checkpoints.manifest import read_manifest, steps
    from .output import print_json, print_table

    with _place(name) as (store, run):
        found = [read_manifest(store, run, step) for step in steps(store, run)]
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
    from ..storage.checkpoints.manifest import read_manifest
    from ..storage.checkpoints.manifest import verify as check
    from .output import bytes_bar, note, print_json, say

    if _submitted(pool, priority, wait=wait, json=json, action="verify", name=name, step=_number(step)):
        return
    with _place(name) as (store, run):
        wanted = _wanted(step, store, run)
        manifests = [read_manifest(store, run, number) for number in wanted]
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
    from ..storage.checkpoints.restoring import restore as restored
    from ..storage.checkpoints.warming import warm as warmed
    from .output import bytes_bar, note, print_json, say

    if (folder is None) is not warm:
        raise typer.BadParameter("name a folder, or say --warm to fill this node's cache", param_hint="FOLDER")
    to = None if folder is None else str(folder)
    if _submitted(pool, priority, wait=wait, json=json, action="restore", name=name, to=to, step=step):
        return
    doing = f"{'warming' if warm else 'restoring'} {name}"
    with _place(name) as (store, run), bytes_bar(doing, quiet=json) as progress:
        if folder is None:
            cached = warmed(store, run, step=step, progress=progress)
            manifest, passed_over, where = cached.manifest, cached.passed_over, f"the cache, {cached.cache}"
            told: dict[str, Any] = {"cache": str(cached.cache), "fetched_bytes": cached.fetched_bytes}
        else:
            found = restored(store, run, folder, step=step, progress=progress)
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
    from ..storage.checkpoints.restoring import prune as pruned
    from .output import print_json, say

    if pool is not None and dry_run:
        raise typer.BadParameter("it looks here and now; leave --pool out", param_hint="--dry-run")
    values = {"action": "prune", "name": name, "keep_last": keep_last, "keep_every": keep_every}
    if _submitted(pool, priority, wait=wait, json=json, **values):
        return
    with _place(name) as (store, run):
        gone = pruned(store, run, keep_last=keep_last, keep_every=keep_every, really=not dry_run)
    if json:
        print_json({"name": name, "removed": gone, "dry_run": dry_run})
    elif gone:
        count = f"{len(gone)} step{'' if len(gone) == 1 else 's'}"
        say(f"{'would remove' if dry_run else 'removed'} {count} of {name}: {', '.join(map(str, gone))}")
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
    from ..jobs import CheckpointJob, Settings
    from ..jobs.checkpoints.places import Places
    from ..storage.checkpoints.copying import copy_step
    from .output import bytes_bar, print_json, say

    values: dict[str, Any] = {"action": "replicate", "name": name, "to": to, "step": _number(step)}
    if _submitted(pool, priority, wait=wait, json=json, **values):
        return
    with _place(name) as (store, run):
        # Checks and completes the same as a job's.
        job = CheckpointJob.model_validate({"pool": "none", **values, "name": run})
        target = Places.of(Settings.load()).store(str(job.to))
        if target.url == store.url:
            raise typer.BadParameter(f"{target.url} is the store that the checkpoint is in", param_hint="TO")
        wanted = _wanted(step, store, run)
        copied: list[int] = []
        for number in wanted:
            with bytes_bar(f"replicating step {number} of {name}", quiet=json) as progress:
                if copy_step(store, target, run, number, progress=progress):
                    copied.append(number)
    there = [number for number in wanted if number not in copied]
    if json:
        print_json({"name": name, "to": target.url, "copied": copied, "there": there})
        return
    for number in wanted:
        say(f"step {number} of {name} {'was' if number in there else 'is'} in {target.url}")


# -- shared ----------------------------------------------------------------------------------------------


def _submitted(pool: str | None, priority: str | None, *, wait: bool, json: bool, **values: Any) -> bool:
    """Submit and follow a job, if a pool was named; False without one."""
    from ..jobs import CheckpointJob, Client

    if pool is None:
        for given, option in ((priority, "--priority"), (wait, "--wait")):
            if given:
                raise typer.BadParameter("it is for a job; name its workers with --pool", param_hint=option)
        return False
    if _is_by_url(values["name"]):
        raise typer.BadParameter("jobs are for runs of the store, by their name; leave it out", param_hint="--pool")
    if priority is not None:
        values["priority"] = int(priority) if priority.isdigit() else priority
    given = {field: value for field, value in values.items() if value is not None}
    with Client() as client:
        follow(client.submit(CheckpointJob.model_validate({"pool": pool, **given})), wait=wait, json=json)
    return True


@contextmanager
def _place(name: str, *, is_made: bool = False) -> Generator[tuple[Store, str]]:
    """The store that a run is in, and its name there.

    Args:
        is_made: its folder may still have to be made.

    Raises:
        ObjectNotFound: there is no such folder.
    """
    from ..jobs import Client, Settings
    from ..jobs.checkpoints.places import Places
    from ..storage.checkpoints.runs import run_at
    from ..storage.errors import ObjectNotFound

    if not _is_by_url(name):
        with Client() as client:
            yield client.ledger.store, name
        return
    place = _behind_prefix(name)
    if not is_made and "://" not in place and not Path(place).expanduser().is_dir():
        raise ObjectNotFound(f"There is no folder {place}.")
    run = run_at(name, Places.of(Settings.load()).options_of(place))
    yield run.store, run.name


def _number(step: str) -> int | str:
    return int(step) if step.isdigit() else step


def _wanted(step: str, store: Store, run: str) -> list[int]:
    """The steps that were asked for. Raises ObjectNotFound if none is committed."""
    from ..storage.checkpoints.manifest import steps
    from ..storage.errors import ObjectNotFound

    committed = steps(store, run)
    wanted = [int(step)] if step.isdigit() else committed if step == "all" else committed[-1:]
    if not wanted:
        raise ObjectNotFound(f"The store {store.url} holds no checkpoint of {run}.")
    return wanted
