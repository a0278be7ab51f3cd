"""Commands on access profiles."""

from __future__ import annotations

from dataclasses import asdict
from math import isinf
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .jobs import AsJson

if TYPE_CHECKING:
    from ..profiles import Applied, Profile
    from ..profiles.sizing import DataSize

_PREFIXES = ("training", "serving", "checkpoint")

app = typer.Typer(no_args_is_help=True, help="How bytes are read from stores, and why so.")


@app.command("list")
def list_(json: AsJson = False) -> None:
    """List the profiles: those that come with Holdshort, and yours.

    Example: `holdshort profile list`
    """
    from ..storage.settings import known_profiles
    from .output import print_json, print_table

    known = known_profiles().values()
    if json:
        print_json([{"name": p.name, "extends": p.extends or None, "for": p.reason} for p in known])
        return
    print_table(("profile", "for"), [(p.name, p.reason) for p in known], empty="")


@app.command()
def explain(
    url: Annotated[str, typer.Argument(help="training::s3://bucket/key, or a URL without a prefix.")],
    scan: Annotated[
        bool, typer.Option("--scan", help="Count what lies under the URL too, which asks its store.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Say which profile counts for a URL, with which values, where each comes from, and why. No store is asked.

    With --scan the objects and bytes under the URL are counted, for 20 seconds at most; say it again to go on. What was
    counted to the end says from then on where what is read there is cached.

    Example: `holdshort profile explain auto::s3://models/llama/model.safetensors`
    """
    from ..storage.explaining import explain as explained
    from ..storage.explaining import seen_at
    from .output import ago, print_json, print_table

    choice, plan = explained(url)
    data = _counted(url, quiet=json) if scan else None
    if data:
        choice, plan = explained(url)  # with what was just counted
    may_decide = choice.source in ("pattern", "nothing")
    told = [(each, each.pattern) for each in seen_at(url) if may_decide and each.pattern is not None]
    if json:
        seen = [
            {"process": each.process, "at_s": each.at_s, "pattern": pattern.name, "signals": pattern.signals}
            for each, pattern in told
        ]
        values = [{**asdict(applied), "value": _plain(applied.value)} for applied in plan.applied]
        found = {
            "url": url, "profile": plan.profile, "chosen_by": choice.source, "why": choice.why, "seen": seen,
            "values": values,
        }  # fmt: skip
        print_json({**found, "data": asdict(data)} if data else found)
        return
    typer.echo(f"{plan.profile}: {choice.why}.")
    if choice.source == "name" and plan.profile not in _PREFIXES:
        typer.echo(f"fsspec knows no prefix of that name; say {_in_python(url, choice.profile)}")
    if data:
        typer.echo(_said(data))
    print_table(
        ("value", "is", "from", "because"),
        [(applied.name, _shown(applied), applied.source, applied.reason) for applied in plan.applied],
        empty="",
    )
    if told:
        typer.echo("What processes of this machine have seen there:")
        rows = [(each.process, ago(each.at_s), pattern.name, "; ".join(pattern.signals)) for each, pattern in told]
        print_table(("process", "ago", "how it was read", "told by"), rows, empty="")


def _in_python(url: str, profile: Profile) -> str:
    """How a URL is opened with a profile that is no prefix of fsspec's, e.g. one of the user's own."""
    prefix = profile.extends if profile.extends in _PREFIXES else "auto"
    place = url.partition("::")[2]
    return f'fsspec.open("{prefix}::{place}", {prefix}={{"profile": "{profile.name}"}})'


def _counted(url: str, *, quiet: bool) -> DataSize:
    from ..storage.scanning import scan as scanned
    from .output import counting

    with counting(quiet=quiet) as progress:
        return scanned(url, progress=progress)


def _said(data: DataSize) -> str:
    from ..profiles.sizing import size
    from .output import ago

    amount = f"{data.objects:,} object{'' if data.objects == 1 else 's'}, {size(data.bytes)}"
    if data.is_whole:
        return f"Under it lie {amount} (counted {ago(data.scanned_at)} ago)."
    return (
        f"Under it lie at least {amount}: it was not counted to the end. "
        f"On s3://, gs:// and in folders another scan goes on from here."
    )


def _shown(applied: Applied) -> str:
    from ..profiles.sizing import size

    if applied.name.endswith("_bytes"):
        return size(applied.value)
    if applied.name.endswith("_s"):
        return "for ever" if isinf(applied.value) else f"{applied.value:g} s"
    return str(applied.value)


def _plain(value: Any) -> Any:
    """JSON has no infinity."""
    return None if isinstance(value, float) and isinf(value) else value
