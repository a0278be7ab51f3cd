"""Commands on access profiles."""

from __future__ import annotations

from dataclasses import asdict
from math import isinf
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .jobs import AsJson

if TYPE_CHECKING:
    from ..profiles import Applied

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
    json: AsJson = False,
) -> None:
    """Say which profile counts for a URL, with which values, where each comes from, and why. No store is asked.

    Example: `holdshort profile explain auto::s3://models/llama/model.safetensors`
    """
    from ..storage.explaining import explain as explained
    from .output import print_json, print_table

    choice, plan = explained(url)
    if json:
        values = [{**asdict(applied), "value": _plain(applied.value)} for applied in plan.applied]
        print_json(
            {"url": url, "profile": plan.profile, "chosen_by": choice.source, "why": choice.why, "values": values}
        )
        return
    typer.echo(f"{plan.profile}: {choice.why}.")
    print_table(
        ("value", "is", "from", "because"),
        [(applied.name, _shown(applied), applied.source, applied.reason) for applied in plan.applied],
        empty="",
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
