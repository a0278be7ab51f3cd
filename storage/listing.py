"""What lies under a path, page by page: how many objects and bytes, and where the listing can be taken up again.

Never more than a page of names is held, however many there are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

_PAGE = 1000
_ROOT = "."


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of a listing.

    Attributes:
        after: where the next page begins, for `pages`; None: a listing can't be taken up again here.
        is_amid: whether it could be a little later.
    """

    objects: int
    bytes: int
    after: str | None = None
    is_amid: bool = False


def pages(fs: Any, path: str, after: str = "") -> Iterator[Page]:
    """All pages of what lies under a path, from where an earlier listing stopped.

    Raises:
        FileNotFoundError: there is nothing there.
        OSError, and what the file system raises: it can't be listed.
    """
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    if protocol == "s3":
        return _s3(fs, path, after)
    if protocol == "gs":
        return _gs(fs, path, after)
    if protocol in ("file", "local"):
        return _local(path, after)
    return _any(fs, path)


def _s3(fs: Any, path: str, after: str) -> Iterator[Page]:
    bucket, _, key = path.strip("/").partition("/")
    # Of a directory bucket the order is none, so a listing can be taken up only by its own token.
    is_ordered = not bucket.endswith("--x-s3")
    asked: dict[str, Any] = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "MaxKeys": _PAGE}
    if after:
        asked["StartAfter"] = after
    found, is_any = True, bool(after)
    while found:
        answer = cast("dict[str, Any]", fs.call_s3("list_objects_v2", **asked))
        listed = cast("list[dict[str, Any]]", answer.get("Contents", []))
        is_any = is_any or bool(listed)
        if listed:
            yield _page([int(each["Size"]) for each in listed], listed[-1]["Key"] if is_ordered else None)
        found = bool(answer.get("IsTruncated"))
        asked["ContinuationToken"] = answer.get("NextContinuationToken")
        asked.pop("StartAfter", None)
    if not is_any and key:
        answer = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=key, MaxKeys=1)
        yield _only([(each["Key"], int(each["Size"])) for each in answer.get("Contents", [])], key, f"s3://{path}")


def _gs(fs: Any, path: str, after: str) -> Iterator[Page]:
    bucket, _, key = path.strip("/").partition("/")
    asked: dict[str, Any] = {"prefix": f"{key}/" if key else "", "maxResults": _PAGE}
    fields = "items(name,size),nextPageToken"
    if after:
        asked["startOffset"] = after  # which counts itself
    found, is_any = True, bool(after)
    while found:
        answer = cast("dict[str, Any]", fs.call("GET", "b/{}/o", bucket, json_out=True, fields=fields, **asked))
        listed = cast("list[dict[str, Any]]", answer.get("items") or [])
        is_any = is_any or bool(listed)
        if listed:
            yield _page([int(each["size"]) for each in listed if each["name"] != after], listed[-1]["name"])
        asked["pageToken"] = answer.get("nextPageToken")
        found = bool(asked["pageToken"])
    if not is_any and key:
        answer = fs.call("GET", "b/{}/o", bucket, json_out=True, prefix=key, maxResults=1, fields=fields)
        listed = cast("list[dict[str, Any]]", answer.get("items") or [])
        yield _only([(each["name"], int(each["size"])) for each in listed], key, f"gs://{path}")


def _local(path: str, after: str) -> Iterator[Page]:
    """Folder by folder, each before those in it and those in order: so the last one tells which have been counted."""
    if not os.path.isdir(path):
        yield _page([os.stat(path).st_size], None)
        return
    done = tuple(after.split("/")) if after else ()
    waiting = [_ROOT]
    while waiting:
        folder = waiting.pop()
        parts = tuple(folder.split("/"))
        is_counted = parts <= done
        if is_counted and done[: len(parts)] != parts:
            continue  # all below it is counted too
        below: list[str] = []
        sizes: list[int] = []
        # It may be gone since it was listed, or be somebody else's; what is left is counted all the same.
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(os.path.join(path, folder)) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    below.append(f"{folder}/{entry.name}")
                elif not is_counted:
                    with suppress(FileNotFoundError):
                        if entry.is_file():
                            sizes.append(entry.stat().st_size)
                    if len(sizes) == _PAGE:
                        yield Page(len(sizes), sum(sizes), is_amid=True)
                        sizes.clear()
        if not is_counted:
            yield _page(sizes, folder)
        waiting += sorted(below, key=lambda each: each.split("/"), reverse=True)


def _any(fs: Any, path: str) -> Iterator[Page]:
    is_any = False
    for _, folders, files in fs.walk(path, detail=True):
        is_any = is_any or bool(folders or files)
        sizes = [int(about.get("size") or 0) for about in files.values()]
        for start in range(0, len(sizes), _PAGE):
            yield _page(sizes[start : start + _PAGE], None)
    if not is_any:
        about = cast("dict[str, Any]", fs.info(path))
        if about["type"] == "file":
            yield _page([int(about.get("size") or 0)], None)


def _page(sizes: list[int], after: str | None) -> Page:
    return Page(len(sizes), sum(sizes), after)


def _only(listed: list[tuple[str, int]], key: str, url: str) -> Page:
    """The object of that very name."""
    for name, size in listed:
        if name == key:
            return Page(1, size)
    raise FileNotFoundError(url)
