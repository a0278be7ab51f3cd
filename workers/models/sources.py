"""Where the user's package indexes are: as given, by the environment of pip and uv, by pip's configuration."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import url2pathname

PYPI = "https://pypi.org/simple"
_PIP_TIMEOUT_S = 30.0
_SECTIONS = ("global", "install", ":env:")
"""Of pip's configuration, as far as they say how packages are fetched; a later one wins."""


@dataclass(frozen=True, slots=True)
class Source:
    """A place that may have wheels."""

    url: str
    origin: str
    """Who named it, for people: "--index-url", "pip's configuration"."""
    kind: Literal["index", "links"] = "index"
    """An index has a page for each package; links are one page, or a folder, of files of any package."""

    @property
    def is_local(self) -> bool:
        return local_path(self.url) is not None

    @property
    def folder(self) -> Path:
        """Where a local one lies."""
        path = local_path(self.url)
        assert path is not None
        return path

    def __str__(self) -> str:
        return without_credentials(self.url)


@dataclass(frozen=True, slots=True)
class Network:
    """What applies to every source."""

    sources: tuple[Source, ...]
    certificates: Path | None = None
    """A file or folder of certificates to trust instead of the usual ones."""
    proxy: str | None = None
    """None: as HTTPS_PROXY and its like say."""


def discover(index_url: str | None = None, *, environment: Mapping[str, str] | None = None) -> Network:
    """The user's indexes, local ones first since looking there costs nothing.

    Several may be asked without harm, as what they deliver is pinned by hash. uv's own configuration files are not
    read, its environment variables are.

    Args:
        index_url: the only one to ask; without it, as pip or uv would.
        environment: the process's by default.
    """
    variables = os.environ if environment is None else environment
    pip = _pip_configuration(variables)
    if index_url is not None:
        sources = [Source(index_url, "--index-url")]
    else:
        sources = [*_main(variables, pip), *_further(variables, pip)]
        sources = sorted(dict.fromkeys(sources), key=lambda source: not source.is_local)
    named = (pip.get("cert"), *(variables.get(name) for name in _CERTIFICATES))
    certificates = next((Path(value).expanduser() for value in named if value), None)
    return Network(tuple(sources), certificates, pip.get("proxy") or None)


_CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


def without_credentials(url: str) -> str:
    """A URL that may be shown."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _main(variables: Mapping[str, str], pip: Mapping[str, str]) -> list[Source]:
    if _says_yes(pip.get("no-index", "")):
        return []
    for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        if variables.get(name):
            return [Source(_unnamed(variables[name]), name)]
    if pip.get("index-url"):
        return [Source(pip["index-url"], "pip's configuration")]
    return [Source(PYPI, "the default of pip")]


def _further(variables: Mapping[str, str], pip: Mapping[str, str]) -> list[Source]:
    found: list[Source] = []
    for name in ("UV_INDEX", "UV_EXTRA_INDEX_URL"):
        found += [Source(_unnamed(url), name) for url in variables.get(name, "").split()]
    if not _says_yes(pip.get("no-index", "")):
        found += [Source(url, "pip's extra-index-url") for url in pip.get("extra-index-url", "").split()]
    found += [Source(url, "pip's find-links", "links") for url in pip.get("find-links", "").split()]
    return found


def _pip_configuration(variables: Mapping[str, str]) -> dict[str, str]:
    """pip's settings from all its files and its environment; only those of the environment where pip is missing."""
    found: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], env=dict(variables), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=_PIP_TIMEOUT_S, check=False,
        )  # fmt: skip
        lines = ran.stdout.splitlines() if ran.returncode == 0 else []
    except (OSError, subprocess.TimeoutExpired):
        lines = []
    for line in lines:
        key, _, written = line.partition("=")
        section, _, name = key.rpartition(".")
        if section in found:
            found[section][name] = str(ast.literal_eval(written))
    for name in ("cert", "proxy", "no-index", "extra-index-url", "find-links"):
        variable = "PIP_" + name.upper().replace("-", "_")
        if variables.get(variable):
            found[":env:"][name] = variables[variable]
    return {name: value for section in _SECTIONS for name, value in found[section].items()}


def _says_yes(value: str) -> bool:
    return value.strip().lower() in ("1", "true", "yes", "on", "y", "t")


def _unnamed(index: str) -> str:
    """uv lets an index be written as name=url."""
    return re.sub(r"^[A-Za-z0-9_.-]+=(?=\w+:)", "", index.strip())


def local_path(url: str) -> Path | None:
    """The path that a file:// URL or a plain path means; None for a URL of any other kind."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(url2pathname(unquote(parts.path) if "%" in parts.path else parts.path))
    return None if "://" in url else Path(url).expanduser()
