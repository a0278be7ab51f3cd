"""Copies the files of a checkpoint into the store; a row is a file."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any, cast

from ...jobs.rows import Row, RowError
from ...profiles import CHECKPOINT, resolve
from ...storage.checkpoints.manifest import file_path
from ...storage.checksums import Sum
from ...storage.errors import Interrupted, StoreUnavailable
from ...storage.sources import source_of, version_of
from ...storage.store import Store
from .protocol import BaseEngine, EngineInfo, Unit

log = logging.getLogger(__name__)

_PAUSE_FIRST_S, _PAUSE_MOST_S = 0.1, 5.0
_PART_BYTES = resolve(CHECKPOINT).access.part_bytes


class CheckpointCopy(BaseEngine):
    """The engine of every pool for checkpoint jobs.

    A file is one unit; an interrupt is obeyed between two parts of 8 MiB, and the file is then copied anew.
    Each file is read once, its CRC32C (Castagnoli) taken on the way.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._interrupted = threading.Event()

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("checkpoint", f"holdshort-{version('holdshort')}")

    def load(self) -> None:
        return None

    def units(self, row: Row) -> Sequence[Unit] | RowError:
        return [Unit(cost=max(1, int(row.body["size_bytes"])), payload=(row, row.body["size_bytes"]))]

    def infer(self, units: Sequence[Unit]) -> Sequence[Any | RowError]:
        self._interrupted.clear()
        return [self._copy(unit.payload[0]) for unit in units]

    def finish(self, row: Row, outputs: Sequence[Any]) -> dict[str, Any] | RowError:
        size, crc32c = outputs[0]
        return {"path": row.body["path"], "size_bytes": size, "crc32c": crc32c}

    def interrupt(self) -> None:
        self._interrupted.set()

    def _copy(self, row: Row) -> tuple[int, str] | RowError:
        body = row.body
        fs, folder = source_of(body["source"])
        source = f"{folder}/{body['path']}"
        try:
            before = version_of(fs.info(source))
            sums = self._upload(fs, source, file_path(body["name"], body["step"], body["attempt"], body["path"]))
            after = version_of(fs.info(source))
        except FileNotFoundError:
            return RowError("source_missing", f"{source} is not there (any more)")
        cure = "submit the job again once the folder is at rest"
        if sums.size_bytes != body["size_bytes"]:
            said = f"had {body['size_bytes']} bytes when the job was submitted and {sums.size_bytes} when it was copied"
            return RowError("source_changed", f"{source} {said}; {cure}")
        if not before == after == body["version"]:
            return RowError("source_changed", f"{source} was written again after the job was submitted; {cure}")
        return sums.size_bytes, sums.crc32c

    def _upload(self, fs: Any, source: str, path: str) -> Sum:
        """Copy a file into the store, waiting for a store that is away, and return what its bytes sum up to."""
        pause_s = _PAUSE_FIRST_S
        while True:
            sums = Sum()
            try:
                self._store.upload(path, self._parts(fs, source, sums))
            except StoreUnavailable as error:
                log.warning("%s Waiting.", error)
                if self._interrupted.wait(pause_s):
                    raise Interrupted(f"the copy of {source} was interrupted") from error
                pause_s = min(_PAUSE_MOST_S, pause_s * 2)
            else:
                return sums

    def _parts(self, fs: Any, source: str, sums: Sum) -> Iterator[bytes]:
        # One pass: what is written is what was summed up.
        with fs.open(source, "rb") as file:
            while part := cast("bytes", file.read(_PART_BYTES)):
                if self._interrupted.is_set():
                    raise Interrupted(f"the copy of {source} was interrupted")
                sums.add(part)
                yield part
