"""Commands on the cache of this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from .exits import Exit
from .jobs import AsJson

app = typer.Typer(no_args_is_help=True, help="What is cached of stores' objects on this machine.")


@app.command("ls")
def ls(json: AsJson = False) -> None:
    """List what is cached, what was used last first.

    Example: `holdshort cache ls`
    """
    from ..profiles.sizing import size
    from ..storage.caching.place import cache_folder
    from ..storage.caching.tending import existing
    from .output import ago, note, print_json, print_table

    caches = existing()
    folder, named_by = cache_folder()
    where = f"{folder.parent} ({named_by})" if named_by else f"{folder}"
    found = [(cache, entry) for cache in caches for entry in cache.entries()]
    found.sort(key=lambda each: -each[1].use.last_s)
    if json:
        print_json(
            [
                {
                    "store": e.subject.store, "path": e.subject.path, "version": e.subject.tag, "bytes": e.subject.size,
                    "cached_bytes": min(e.held_bytes, e.subject.size), "last_used": e.use.last_s, "uses": e.use.opens,
                    "file": str(cache.path_of(e.key)),
                }
                for cache, e in found
            ]
        )  # fmt: skip
        return
    print_table(
        ("object", "size", "cached", "used", "times"),
        [
            (
                f"{e.subject.store.partition('-')[0]}://{e.subject.path}", size(e.subject.size),
                f"{min(1.0, e.held_bytes / e.subject.size):.0%}", f"{ago(e.use.last_s)} ago", str(e.use.opens),
            )
            for _, e in found
        ],
        empty=f"Nothing is cached in {where}.",
    )  # fmt: skip
    for cache in caches:
        held = sum(e.held_bytes for at, e in found if at is cache)
        note(f"{cache.folder}: {size(held)} in {sum(at is cache for at, _ in found)} objects")


@app.command()
def prune(
    to: Annotated[
        str | None,
        typer.Option(help="Leave no more than this, e.g. 10GiB; the longest unused go.", show_default=False),
    ] = None,
    unused_for: Annotated[
        str | None, typer.Option(help="Remove what was not used for so long, e.g. 7d.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove everything.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json: AsJson = False,
) -> None:
    """Remove objects from the cache. Those that a running process has mapped stay.

    Example: `holdshort cache prune --unused-for 7d`
    """
    from ..jobs.spec import duration_s
    from ..profiles.sizing import size
    from ..storage.caching.tending import existing
    from ..storage.caching.tending import prune as pruned
    from ..storage.settings import amount
    from .output import print_json, say

    if sum((to is not None, unused_for is not None, everything)) != 1:
        raise typer.BadParameter("say what is to go: one of --to, --unused-for or --all")
    try:
        most_bytes = None if to is None else amount(to)
        unused_s = 0.0 if everything else None if unused_for is None else duration_s(unused_for)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    gone = [
        entry
        for cache in existing()
        for entry in pruned(cache, most_bytes=most_bytes, unused_s=unused_s, really=not dry_run)
    ]
    freed = sum(entry.held_bytes for entry in gone)
    if json:
        print_json({"removed": [entry.subject.path for entry in gone], "bytes": freed, "dry_run": dry_run})
    else:
        say(f"{'would remove' if dry_run else 'removed'} {len(gone)} objects, {size(freed)}")


@app.command()
def verify(json: AsJson = False) -> None:
    """Read all that is cached and compare it with its checksums; what is wrong goes, to be fetched again.

    Example: `holdshort cache verify`
    """
    from ..profiles.sizing import size
    from ..storage.caching.tending import existing
    from ..storage.caching.tending import verify as verified
    from .output import bytes_bar, note, print_json, say

    wrong: dict[str, int] = {}
    checked = 0
    for cache in existing():
        entries = list(cache.entries())
        with bytes_bar("verifying", quiet=json) as progress:
            total, done = sum(entry.held_bytes for entry in entries), 0
            for entry, wrong_bytes in verified(cache, entries):
                done += entry.held_bytes
                progress(done, total)
                checked += entry.held_bytes
                if wrong_bytes:
                    wrong[entry.subject.path] = wrong_bytes
    if json:
        print_json({"checked_bytes": checked, "wrong_bytes": wrong, "ok": not wrong})
    for path, wrong_bytes in () if json else wrong.items():
        note(f"{path}: {size(wrong_bytes)} were not what had been written; removed, to be fetched again")
    if wrong:
        raise typer.Exit(Exit.FAILED)
    if not json:
        say(f"{size(checked)} are what was written")
