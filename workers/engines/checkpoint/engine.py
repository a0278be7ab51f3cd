"""Checkpoint jobs as an engine: a row is a slice of a file, a unit a piece of it, a micro-batch what moves at once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from typing import Any, cast

from ....jobs.checkpoints.places import Places
from ....jobs.rows import Row, RowError
from ....storage.crc32c import of_slices
from ....storage.errors import Interrupted, Unreadable
from ....storage.flow import Flow
from ....storage.local import LocalStore
from ....storage.parted.cutting import PIECE_BYTES, pieces
from ....storage.store import Store
from ..failures import row_error
from ..protocol import BaseEngine, EngineInfo, Unit
from .moving import Mover
from .pieces import Moved, Piece, check
from .pruning import prune_step

_AT_ONCE_LOCAL, _AT_ONCE = 4, 8
_IN_MEMORY_BYTES = 128 * 2**20
_KEPT = 4096
_PATIENCE_S = 20.0


class CheckpointEngine(BaseEngine):
    """The engine of every pool for checkpoint jobs.

    An interrupt stops each transfer at its next chunk, or cuts it off, within a part of the yield bound. Pieces that
    were finished by then are not moved again; those in the middle are.

    Args:
        store: the jobs' own.
        places: other stores, and whether folders are seen.
        bound_s: the pool's yield bound.
        patience_s: how long a target that does not answer, or is full, is waited for before its row is tried later.
    """

    def __init__(self, store: Store, places: Places, *, bound_s: float = 0.05, patience_s: float = _PATIENCE_S) -> None:
        self._store = store
        self._mover = Mover(store, places, patience_s=patience_s)
        self._flow = Flow(bound_s)
        self._at_once = _AT_ONCE_LOCAL if isinstance(store, LocalStore) else _AT_ONCE
        self._lanes = self._at_once
        self._kept: OrderedDict[tuple[str, int, int], Moved] = OrderedDict()
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("checkpoint", f"holdshort-{version('holdshort')}")

    @property
    def moved_bytes(self) -> int:
        """All bytes that were read or written since the start, those that count for nothing too."""
        return self._flow.moved_bytes

    def load(self) -> None:
        return None

    def units(self, row: Row) -> Sequence[Unit] | RowError:
        body = row.body
        if body["action"] == "prune" or body.get("there"):
            return [Unit(1, row)]
        size = int(body["size_bytes"])
        if "piece_bytes" not in body:  # of a job that was accepted before there were slices
            return [Unit(_waves(size), Piece(row, 0, 0, size))]
        cut = pieces(int(body["first"]), size, int(body["piece_bytes"]))
        return [Unit(_waves(end - start), Piece(row, index, start, end)) for index, start, end in cut]

    def cost(self, units: Sequence[Unit]) -> int:
        """In what takes as long as one piece: so many are moved at the same time."""
        return max(sum(unit.cost for unit in units[lane :: self._at_once]) for lane in range(self._at_once))

    def infer(self, units: Sequence[Unit]) -> Sequence[Any | RowError]:
        self._flow.go_on()
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._at_once, thread_name_prefix="checkpoint")
        largest = max((unit.payload.end - unit.payload.start for unit in units if isinstance(unit.payload, Piece)),
                      default=1)  # fmt: skip
        room = threading.Semaphore(max(1, min(self._lanes, _IN_MEMORY_BYTES // max(1, min(largest, 2**30)))))

        def one(unit: Unit) -> Any | RowError:
            with room:
                try:
                    return self._one(unit)
                except Interrupted:
                    raise
                except Exception as error:  # noqa: BLE001 - whatever is raised is the row's result
                    return row_error(error)

        running: list[Future[Any | RowError]] = [self._threads.submit(one, unit) for unit in units]
        # All of them have to stand still before anybody hears that they do.
        problems = [future.exception() for future in running]
        for problem in problems:
            if problem is not None:
                # Fewer at once: when holds come often, so much less is under way when the next one comes.
                self._lanes = max(1, self._lanes // 2)
                raise problem
        self._lanes = min(self._at_once, self._lanes + 1)
        return [future.result() for future in running]

    def finish(self, row: Row, outputs: Sequence[Any]) -> dict[str, Any] | RowError:
        body = row.body
        if body["action"] == "prune" or body.get("there"):
            return cast("dict[str, Any]", outputs[0])
        with self._lock:
            for key in [key for key in self._kept if key[:2] == (body["job"], row.index)]:
                del self._kept[key]
        moved = cast("Sequence[Moved]", outputs)
        crc32c = of_slices((each.crc32c, each.size_bytes) for each in moved)
        size = sum(each.size_bytes for each in moved)
        found: dict[str, Any] = {"path": body["path"], "size_bytes": size, "crc32c": f"{crc32c:08x}"}
        if size != body.get("file_bytes", size):
            found |= {"first": body["first"], "file_bytes": body["file_bytes"]}
        else:
            try:
                check(body, crc32c)
            except Unreadable as error:
                self._mover.unsound(body)
                return RowError(error.code, str(error))
        if tags := [each.tag for each in moved if each.tag]:
            found["tags"] = tags
        if body["action"] != "save":
            found |= {"step": body["step"], "attempt": body["attempt"], "wanted": body["crc32c"]}
        return found

    def interrupt(self) -> None:
        self._flow.stop()

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)

    # -- inside ------------------------------------------------------------------------------------------

    def _one(self, unit: Unit) -> Any | RowError:
        self._flow.check()
        if isinstance(unit.payload, Row):
            body = unit.payload.body
            return prune_step(self._store, body) if body["action"] == "prune" else {"step": body["step"], "there": True}
        piece = cast("Piece", unit.payload)
        key = (cast("str", piece.row.body["job"]), piece.row.index, piece.index)
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None:
            return kept
        moved = self._mover.move(piece, self._flow)
        if isinstance(moved, Moved):
            with self._lock:
                self._kept[key] = moved
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
        return moved


def _waves(size_bytes: int) -> int:
    return max(1, -(-size_bytes // PIECE_BYTES))
