"""Fetching a file of known size, going on where an earlier try, or a cut connection, left off."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import httpx

from ...storage.errors import ModelUnavailable
from .sources import without_credentials

log = logging.getLogger(__name__)

_TRIES = 5
"""Connections in a row that bring nothing."""
_PAUSE_S = 0.3


class _Cut(Exception):
    """Why a connection ended before the file did."""


def fetch(web: httpx.Client, url: str, part: Path, size_bytes: int, progress: Callable[[int], None]) -> int:
    """Bring `part` to its full size; returns how many of its bytes were there before.

    What a failed try got is kept, for the next one. That the content is right is for the caller to verify: a file
    that has changed in between has the right size and the wrong hash.

    Args:
        web: sends the credentials.
        url: where the file is.
        part: where to write; appended to, if the server can send ranges.
        size_bytes: of the whole file; a server that sends more, or less, is refused.
        progress: called with the bytes that are there.

    Raises:
        ModelUnavailable: the server does not deliver it.
        OSError: it can't be written.
    """
    before = _size(part)
    if before > size_bytes:
        part.unlink()
        before = 0
    failures = 0
    while (start := _size(part)) < size_bytes:
        progress(start)
        try:
            _fetch_rest(web, url, part, size_bytes, progress)
        except _Cut as cut:
            failures = failures + 1 if _size(part) <= start else 1
            if failures >= _TRIES:
                raise ModelUnavailable(
                    f"{without_credentials(url)} can't be fetched: {cut}. {_size(part):,} of {size_bytes:,} bytes are "
                    "here and kept; the same command goes on from there."
                ) from cut
            log.debug("%s: %s; going on at byte %d", without_credentials(url), cut, _size(part))
            time.sleep(_PAUSE_S * (failures - 1))
    progress(size_bytes)
    return before


def _fetch_rest(web: httpx.Client, url: str, part: Path, size_bytes: int, progress: Callable[[int], None]) -> None:
    """One connection's worth. Raises _Cut if it ended early."""
    start = _size(part)
    # Of the file as it is stored: neither a range nor a length would mean anything in a compressed answer.
    headers = {"accept-encoding": "identity"} | ({"range": f"bytes={start}-"} if start else {})
    try:
        with web.stream("GET", url, headers=headers) as response:
            if response.status_code in (408, 429) or response.status_code >= 500:
                raise _Cut(f"HTTP {response.status_code}")
            shown = without_credentials(url)
            start = _begins_at(response, start, size_bytes, shown)
            with part.open("r+b" if part.exists() else "wb") as file:
                file.truncate(start)
                file.seek(start)
                _write(response, file, start, size_bytes, shown, progress)
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        raise _Cut(str(error) or type(error).__name__) from error
    if _size(part) < size_bytes:
        raise _Cut("the connection ended early")


def _begins_at(response: httpx.Response, wanted: int, size_bytes: int, url: str) -> int:
    """The byte that an answer begins with: 0 from a server that sends no ranges, or whose file has changed."""
    if response.status_code == 416:  # there is less than we have: not the file that we had begun
        raise ModelUnavailable(f"{url} is not {size_bytes:,} bytes long, as it should be (HTTP 416).")
    if response.status_code not in (200, 206):
        raise ModelUnavailable(f"{url} can't be fetched: HTTP {response.status_code}.")
    total = int(response.headers.get("content-length", size_bytes))
    begin = 0
    if response.status_code == 206:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("content-range", ""))
        if span is None or int(span[1]) != wanted:
            raise ModelUnavailable(f"{url} can't be fetched: its server answers with another range than asked for.")
        begin, total = int(span[1]), int(span[2])
    if total != size_bytes:
        raise ModelUnavailable(f"{url} is {total:,} bytes long, but {size_bytes:,} are expected.")
    return begin


def _write(
    response: httpx.Response, file: BinaryIO, start: int, size_bytes: int, url: str, progress: Callable[[int], None]
) -> None:
    done = start
    # As it comes: of pieces that are collected to a size, the last one would be lost when the connection is cut.
    for piece in response.iter_raw():
        done += len(piece)
        if done > size_bytes:
            raise ModelUnavailable(f"{url} is longer than the {size_bytes:,} bytes that are expected.")
        file.write(piece)
        progress(done)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
