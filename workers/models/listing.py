"""What a page of a package index says (PEP 503 HTML, PEP 691 JSON). Pure: text in, files out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, unquote, urldefrag, urljoin, urlsplit

ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1, */*;q=0.01"


@dataclass(frozen=True, slots=True)
class File:
    """A file that an index offers."""

    name: str
    url: str
    """Absolute, without a fragment."""
    sha256: str | None
    """As the index states it; None if it does not."""


def page_name(package: str) -> str:
    """A package's name as it stands in an index's URLs (PEP 503)."""
    return re.sub(r"[-_.]+", "-", package).lower()


def read(body: bytes, url: str) -> list[File]:
    """The files of a page that was fetched from `url`. Raises ValueError when it is neither form.

    The form is told by the content, since static mirrors seldom send the right type.
    """
    text = body.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    return list(_from_json(text, url) if text.startswith("{") else _from_html(text, url))


def _from_json(text: str, url: str) -> Iterator[File]:
    import json

    page: Any = json.loads(text)
    try:
        for entry in page["files"]:
            hashes: dict[str, str] = entry.get("hashes") or {}
            yield File(entry["filename"], urldefrag(urljoin(url, entry["url"])).url, hashes.get("sha256"))
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError("is JSON, but no package page") from error


def _from_html(text: str, url: str) -> Iterator[File]:
    parser = _Links()
    parser.feed(text)
    parser.close()
    if not parser.links and "<" not in text:
        raise ValueError("is neither JSON nor HTML")
    for link in parser.links:
        absolute, fragment = urldefrag(urljoin(urljoin(url, parser.base), link))
        (sha256,) = parse_qs(fragment).get("sha256", [None])[:1]
        yield File(unquote(urlsplit(absolute).path.rpartition("/")[2]), absolute, sha256)


class _Links(HTMLParser):
    """Where all anchors of a page lead."""

    def __init__(self) -> None:
        super().__init__()
        self.base = ""
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        target = dict(attrs).get("href")
        if target is None:
            return
        if tag == "a":
            self.links.append(target.strip())
        elif tag == "base" and not self.base:
            self.base = target.strip()
