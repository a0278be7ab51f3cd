"""`holdshort gateway`: the reverse proxy that raises the lane."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .jobs import AsJson

if TYPE_CHECKING:
    from ..jobs import Settings
    from ..jobs.settings import GatewaySettings

_MODULES = ("uvicorn", "httptools", "uvloop", "prometheus_client")


def gateway(
    upstream: Annotated[
        str | None,
        typer.Option(help="URL of an OpenAI-compatible server, e.g. http://127.0.0.1:8000.", show_default=False),
    ] = None,
    pool: Annotated[
        list[str] | None,
        typer.Option("--pool", "-p", help="Whose lane it raises; may be repeated; all without it.", show_default=False),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Where to listen; 127.0.0.1 by default.", show_default=False)] = None,
    port: Annotated[
        int | None, typer.Option(help="Where to listen; 8080 by default, 0: any free one.", show_default=False)
    ] = None,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
    json: AsJson = False,
) -> None:
    """Forward requests to an OpenAI-compatible server, and raise the lane while one is live.

    Options win over the table [gateway] of holdshort.toml. SIGTERM or Ctrl-C lets requests under way end.

    Example: `holdshort gateway --upstream http://127.0.0.1:8000 --pool embed`
    """
    from ..jobs import Settings
    from ..workers.parent import leave_with_parent
    from .output import note, print_json, start_logging

    start_logging(verbose=verbose)
    _check_extra()
    settings = Settings.load()
    chosen = _chosen(settings, {"upstream": upstream, "pools": pool, "host": host, "port": port})

    def ready(url: str) -> None:
        if json:
            print_json({"event": "listening", "url": url, "upstream": chosen.upstream})
            sys.stdout.flush()
        else:
            note(f"the gateway listens on {url} for {chosen.upstream}; Ctrl-C lets requests under way end")

    if with_parent:
        leave_with_parent()
    from ..gateway.server import serve_gateway

    raise typer.Exit(serve_gateway(settings, chosen, ready=ready))


def _check_extra() -> None:
    from importlib.util import find_spec

    from ..storage.errors import MissingExtra

    for module in _MODULES:
        if find_spec(module) is None:
            raise MissingExtra("holdshort gateway", extra="gateway", module=module)


def _chosen(settings: Settings, given: dict[str, Any]) -> GatewaySettings:
    """The table [gateway] with what was given on the command line."""
    from pydantic import ValidationError

    from ..jobs.settings import GatewaySettings
    from ..storage.errors import SettingsError

    table: dict[str, Any] = settings.gateway.model_dump() if settings.gateway else {}
    table |= {key: value for key, value in given.items() if value is not None}
    if not table.get("upstream"):
        raise SettingsError(
            "The gateway needs to know the server behind it: --upstream http://host:port, or upstream in the table "
            "[gateway] of holdshort.toml (HOLDSHORT_GATEWAY)."
        )
    try:
        return GatewaySettings.model_validate(table)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        told = "\n".join(f"gateway.{'.'.join(str(part) for part in one['loc'])}: {one['msg']}." for one in found)
        raise SettingsError(f"The gateway can't be configured so.\n{told}") from error
