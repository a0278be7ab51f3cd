"""HTTP as the user's network wants it: credentials of the URL and of netrc, own certificates, a proxy."""

from __future__ import annotations

import netrc
import os
import ssl
from collections.abc import Generator, Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from ...storage.errors import ModelUnavailable
from .sources import Network

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0


def client(network: Network) -> httpx.Client:
    """A client for all sources of a network. Raises ModelUnavailable: its certificates can't be read."""
    return httpx.Client(
        auth=_Credentials(source.url for source in network.sources),
        verify=_trusted(network.certificates),
        proxy=network.proxy,
        follow_redirects=True,
        timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
    )


def _trusted(path: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if path is None:
        import certifi

        context.load_verify_locations(certifi.where())  # where the system has none of its own
        return context
    try:
        if path.is_dir():
            return ssl.create_default_context(capath=path)
        return ssl.create_default_context(cafile=path)
    except OSError as error:
        raise ModelUnavailable(
            f"The certificates in {path} can't be read: {error.strerror or error}. "
            "They are named by pip's setting cert, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE or SSL_CERT_FILE."
        ) from error


class _Credentials(httpx.Auth):
    """Those that stand in a source's URL go to that host and port only, and so do those of netrc.

    A file may lie on another host than its index: that one gets nothing.
    """

    def __init__(self, urls: Iterable[str]) -> None:
        self._of_urls: dict[tuple[str, int | None], tuple[str, str]] = {}
        for url in urls:
            parts = urlsplit(url)
            if parts.username is not None and parts.hostname is not None:
                login = unquote(parts.username), unquote(parts.password or "")
                self._of_urls[parts.hostname, _port(parts.scheme, parts.port)] = login
        self._netrc = _read_netrc()

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        login = self._of_urls.get((request.url.host, _port(request.url.scheme, request.url.port)))
        if login is None and self._netrc is not None:
            found = self._netrc.authenticators(request.url.host)
            login = (found[0], found[2] or "") if found else None
        if login is None:
            yield request
        else:
            yield from httpx.BasicAuth(*login).auth_flow(request)


def _port(scheme: str, port: int | None) -> int | None:
    return port or {"http": 80, "https": 443}.get(scheme)


def _read_netrc() -> netrc.netrc | None:
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        return netrc.netrc(str(path))
    except FileNotFoundError:
        return None
    except (OSError, netrc.NetrcParseError) as error:
        raise ModelUnavailable(f"{path}, which may hold an index's credentials, can't be read: {error}") from error
