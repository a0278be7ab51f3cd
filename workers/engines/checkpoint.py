"""Copies the files of a checkpoint into the store; a row is a file."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any, cast

from ...jobs.rows import Row, RowError
from ...profiles import CHECKPOINT
from ...storage.checkpoints import Sum, file_path
from ...storage.errors import Interrupted
from ...storage.store import Store
from .protocol import BaseEngine, EngineInfo, Unit


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
        sums = Sum()

        def parts() -> Iterator[bytes]:
            # One pass: what is written is what was summed up.
            for part in _read(body["source"]):
                if self._interrupted.is_set():
                    raise Interrupted(f"the copy of {body['source']} was interrupted")
                sums.add(part)
                yield part

        path = file_path(body["name"], body["step"], body["attempt"], body["path"])
        try:
            self._store.upload(path, parts())
        except FileNotFoundError:
            return RowError("source_missing", f"{body['source']} is not there (any more)")
        size, crc32c = sums.size_bytes, sums.crc32c
        if size != body["size_bytes"]:
            return RowError(
                "source_changed",
                f"{body['source']} had {body['size_bytes']} bytes when the job was submitted and {size} when "
                f"it was copied; submit the job again once the file is whole",
            )
        return size, crc32c


def _read(source: str) -> Iterator[bytes]:
    import fsspec

    opened = cast("Any", fsspec.open(source, "rb"))  # pyright: ignore[reportUnknownMemberType] - fsspec has no types
    with opened as file:
        while part := file.read(CHECKPOINT.part_bytes):
            yield part
