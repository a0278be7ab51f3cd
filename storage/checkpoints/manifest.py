"""Checkpoints in a store: files under an attempt's own prefix, visible only through a manifest.

    checkpoints/<name>/<step>.json                       the manifest: its creation commits the step
    checkpoints/<name>/<step>/<attempt>/<file>           the files

A reader takes only what a manifest names, so it sees whole checkpoints or none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote, unquote

import orjson

from ..checksums import Sum
from ..errors import Corrupt, ObjectNotFound
from ..store import Store

VERSION = 1
_SEGMENT_CHARS, _KEPT_CHARS = 240, 200


@dataclass(frozen=True, slots=True)
class CopiedFile:
    """A file of a checkpoint.

    Attributes:
        path: relative to the checkpoint, with "/".
        crc32c: of its bytes, eight hexadecimal digits.
    """

    path: str
    size_bytes: int
    crc32c: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A committed checkpoint."""

    name: str
    step: int
    attempt: str
    files: tuple[CopiedFile, ...]


def manifest_path(name: str, step: int) -> str:
    return f"checkpoints/{name}/{step:012d}.json"


def file_path(name: str, step: int, attempt: str, path: str) -> str:
    """Where a file lies. Signs that a store's names can't have are percent-coded (".metadata" too)."""
    segments = [_coded(segment) for segment in path.split("/")]
    return "/".join([f"checkpoints/{name}/{step:012d}/{attempt}", *segments])


def commit_manifest(store: Store, name: str, step: int, *, attempt: str, files: Sequence[CopiedFile]) -> str:
    """Commit a checkpoint; returns the attempt that holds the step, ours or one that was earlier."""
    ordered = tuple(sorted(files, key=lambda file: file.path))
    manifest = Manifest(name, step, attempt, ordered)
    data = orjson.dumps({"version": VERSION, **asdict(manifest)}, option=orjson.OPT_INDENT_2)
    if store.create(manifest_path(name, step), data):
        return attempt
    return read_manifest(store, name, step).attempt


def read_manifest(store: Store, name: str, step: int) -> Manifest:
    """A committed checkpoint's manifest. Raises ObjectNotFound for a step that is not committed."""
    try:
        data = store.read(manifest_path(name, step))
    except ObjectNotFound:
        raise ObjectNotFound(
            f"The store {store.url} holds no step {step} of {name}; `holdshort checkpoint list {name}` lists them."
        ) from None
    try:
        found: dict[str, Any] = orjson.loads(data)
        newer = found.pop("version") > VERSION
        if not newer:
            found["files"] = tuple(CopiedFile(**file) for file in found["files"])
            return Manifest(**found)
    except (ValueError, TypeError, KeyError) as error:
        raise Corrupt(f"the manifest of step {step} of {name} can't be read: {error!r}") from error
    raise Corrupt(f"the manifest of step {step} of {name} was written by a newer version; upgrade Holdshort")


def steps(store: Store, name: str) -> list[int]:
    """Committed steps, ascending."""
    names = (entry.removesuffix(".json") for entry in store.list(f"checkpoints/{name}") if entry.endswith(".json"))
    return [int(name) for name in names if name.isascii() and name.isdigit()]


def verify(store: Store, manifest: Manifest) -> Iterator[tuple[CopiedFile, str]]:
    """Read every file of a checkpoint; yields each with "" or what is wrong with it."""
    for file in manifest.files:
        path = file_path(manifest.name, manifest.step, manifest.attempt, file.path)
        try:
            found = Sum()
            for part in store.read_parts(path):
                found.add(part)
        except ObjectNotFound:
            yield file, "is missing"
            continue
        if (found.size_bytes, found.crc32c) != (file.size_bytes, file.crc32c):
            yield (
                file,
                f"has {found.size_bytes} bytes with CRC32C {found.crc32c}, not {file.size_bytes} with {file.crc32c}",
            )
        else:
            yield file, ""


def _coded(segment: str) -> str:
    text = quote(segment, safe=" @=+,:~")
    if text.startswith((".", " ")):
        text = f"%{ord(text[0]):02X}{text[1:]}"
    if len(text) <= _SEGMENT_CHARS:
        return text
    # Too long for a store: cut, and told from others by a digest. The manifest has the whole name.
    return f"{text[:_KEPT_CHARS]}~{hashlib.sha256(segment.encode()).hexdigest()[:32]}"


def decoded(segment: str) -> str:
    """The file name that a segment stands for, unless it was too long."""
    return unquote(segment)
