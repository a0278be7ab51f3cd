"""A run's checkpoints by their URL: below a store of Holdshort, or in a folder of their own."""

from __future__ import annotations

import builtins
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ...profiles import BUILT_IN
from ..errors import SettingsError
from ..flow import Flow
from ..opening import open_store
from ..store import Capabilities, Located, Store

_FOLDER = "checkpoints"


@dataclass(frozen=True, slots=True)
class Run:
    """Where a run's checkpoints are.

    Attributes:
        store: paths of the run in it begin with "checkpoints/<name>/", wherever that is in truth.
        url: of the run, without a prefix or credentials.
    """

    store: Store
    name: str
    url: str


def run_at(url: str | Path, storage_options: Mapping[str, Any] | None = None) -> Run:
    """The run at a URL. What was opened stays open in this process.

    Args:
        url: "s3://bucket/store/checkpoints/run-7" is run-7 of the store at s3://bucket/store; any other URL or folder
            is a run of its own, laid out in the same way. A prefix such as "checkpoint::" changes nothing.
        storage_options: for the file system behind, as fsspec takes them; also by its protocol ({"s3": {…}}).

    Raises:
        SettingsError: the URL names no place.
        StoreRefused, StoreUnavailable, MissingExtra: see open_store.
    """
    target = _target(str(url))
    options = dict(storage_options or {})
    protocol, separator, rest = target.partition("://")
    if separator and isinstance(options.get(protocol), Mapping):
        options = dict(cast("Mapping[str, Any]", options[protocol]))
    if not separator:
        protocol, rest = "file", str(Path(target).expanduser().absolute())
    key = (os.getpid(), f"{protocol}://{rest}", repr(sorted(options.items(), key=lambda item: item[0])))
    with _lock:
        found = _opened.get(key)
    if found is None:
        found = _open(protocol, rest.rstrip("/"), options)
        with _lock:
            while len(_opened) >= _MOST_OPENED:
                _opened.pop(next(iter(_opened)))
            _opened[key] = found
    return found


class RunFolder:
    """A store for one run, which lies directly in the folder of the store behind.

    Args:
        store: the store behind.
        name: paths have to begin with "checkpoints/<name>".
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._prefix = f"{_FOLDER}/{name}"

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def capabilities(self) -> Capabilities:
        return self._store.capabilities

    def create(self, path: str, data: bytes) -> bool:
        return self._store.create(self._at(path), data)

    def replace(self, path: str, data: bytes) -> None:
        self._store.replace(self._at(path), data)

    def read_tagged(self, path: str) -> tuple[bytes, str]:
        return self._store.read_tagged(self._at(path))

    def replace_if(self, path: str, data: bytes, tag: str) -> bool:
        return self._store.replace_if(self._at(path), data, tag)

    def read(self, path: str, *, first: int | None = None) -> bytes:
        return self._store.read(self._at(path), first=first)

    def upload(self, path: str, parts: Iterable[bytes]) -> None:
        self._store.upload(self._at(path), parts)

    def read_parts(self, path: str, part_bytes: int = 8 * 2**20) -> Iterator[bytes]:
        return self._store.read_parts(self._at(path), part_bytes)

    def read_range(self, path: str, start: int, end: int, flow: Flow) -> bytes:
        return self._store.read_range(self._at(path), start, end, flow)

    def size(self, path: str) -> int | None:
        return self._store.size(self._at(path))

    def located(self, path: str) -> Located | None:
        return self._store.located(self._at(path))

    @property
    def parted(self) -> None:
        """Nothing here is written by several processes together."""
        return None

    def list(self, folder: str) -> builtins.list[str]:
        return self._store.list("" if folder == self._prefix else self._at(folder))

    def delete(self, path: str) -> None:
        self._store.delete(self._at(path))

    def delete_folder(self, folder: str) -> None:
        self._store.delete_folder(self._at(folder))

    def _at(self, path: str) -> str:
        if not path.startswith(f"{self._prefix}/"):
            raise ValueError(f"{path!r} is not below {self._prefix}/")
        return path.removeprefix(f"{self._prefix}/")


_MOST_OPENED = 32
_lock = threading.Lock()
_opened: dict[tuple[int, str, str], Run] = {}


def _target(url: str) -> str:
    """The URL without the profile that is named before it."""
    prefix, separator, rest = url.partition("::")
    is_prefix = bool(separator) and "/" not in prefix
    if is_prefix and prefix not in (*BUILT_IN, "auto"):
        raise SettingsError(
            f"{url}: checkpoints can't be kept behind {prefix!r}. Name a folder, s3://…, gs://… or memory://…; "
            f"a profile may stand before it, as in checkpoint::s3://bucket/runs/7."
        )
    return rest if is_prefix else url


def _open(protocol: str, path: str, options: Mapping[str, Any]) -> Run:
    above, _, name = path.rpartition("/")
    is_local = protocol in ("file", "local")
    if not name or (not above and not is_local):
        # A bucket itself is no run: its other objects would be taken for attempts.
        raise SettingsError(
            f"{protocol}://{path} names no run. Add a name, as in {protocol}://{path or 'bucket'}/run-7."
        )
    root, _, folder = above.rpartition("/")
    in_store = folder == _FOLDER and bool(root.strip("/"))
    base = root if in_store else path
    opened = open_store(f"{protocol}://{base}", storage_options=options)
    store: Store = opened if in_store else RunFolder(opened, name)
    where = f"{opened.url}/{_FOLDER}/{name}" if in_store else opened.url
    return Run(store, name, where)
