"""Moves one piece of a slice: reads it, sums it up, and writes it where it belongs."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, cast

from ....jobs.checkpoints.left_folders import sweep_left
from ....jobs.checkpoints.places import Places
from ....jobs.checkpoints.restore_folder import RestoreFolder
from ....jobs.checkpoints.uploads import Upload, Uploads
from ....jobs.rows import RowError
from ....storage.checkpoints.manifest import file_path
from ....storage.checkpoints.origins import Committed, Origin, Source
from ....storage.checksums import Sum
from ....storage.errors import NotAllowedNow, ObjectNotFound, StoreUnavailable, Unreadable, UploadGone
from ....storage.flow import Flow
from ....storage.parted.cutting import PIECE_BYTES
from ....storage.store import Store
from .ends import Destination, InFolder, InStore
from .pieces import Moved, Piece, check, remember, summed
from .warming import Warming

log = logging.getLogger(__name__)

_PAUSE_FIRST_S, _PAUSE_MOST_S = 0.1, 5.0


class Mover:
    """Moves pieces of any job; several threads may at once.

    Args:
        store: the jobs' own.
        places: other stores.
        patience_s: how long a target that does not answer, or is full, is waited for before its row is tried later.
    """

    def __init__(self, store: Store, places: Places, *, patience_s: float) -> None:
        self._store = store
        self._places = places
        self._patience_s = patience_s
        self._warming = Warming(store)
        self._lock = threading.Lock()
        self._destinations: OrderedDict[str, Destination] = OrderedDict()
        self._uploads: OrderedDict[tuple[str, int], Upload] = OrderedDict()

    def move(self, piece: Piece, flow: Flow) -> Moved | RowError:
        """Read and, unless the job only verifies, write a piece.

        Raises:
            Interrupted: `flow` was stopped; nothing of the piece counts.
        """
        waited, pause_s = 0.0, _PAUSE_FIRST_S
        while True:
            try:
                return self._move(piece, flow)
            except Unreadable as error:
                return RowError(error.code, str(error))
            except UploadGone as error:
                return RowError("upload_gone", str(error))
            except NotAllowedNow as error:
                return RowError("cache_unusable" if _warms(piece.row.body) else "target_taken", str(error))
            except StoreUnavailable as error:
                # A job whose own store is away has nothing better to do than to wait; others need not wait for the
                # target of one.
                if piece.row.body["action"] in ("restore", "replicate") and waited >= self._patience_s:
                    return RowError("target_unavailable", str(error), retryable=True, retry_after_s=pause_s)
                log.warning("%s Waiting.", error)
            flow.wait(pause_s)
            waited, pause_s = waited + pause_s, min(_PAUSE_MOST_S, pause_s * 2)

    def unsound(self, body: dict[str, Any]) -> None:
        """A whole file was moved, and is not what its manifest says."""
        if _warms(body):
            self._warming.drop(body)

    def _move(self, piece: Piece, flow: Flow) -> Moved:
        body = piece.row.body
        origin = self._origin(body)
        if _warms(body):
            return self._warming.move(piece, origin, flow)
        if body["action"] == "verify":
            return summed(origin.read(piece.start, piece.end, flow))
        destination = self._destination(body)
        path = _path(body)
        size = int(body.get("file_bytes", body["size_bytes"]))
        if destination.parted is None or "piece_bytes" not in body:
            return self._whole(origin, destination, path, size, body, flow)
        if size <= int(body["piece_bytes"]):
            return self._small(origin, destination, path, size, body, flow)
        upload = self._upload(destination, path, size, body)
        if upload.was_there:
            # An earlier try had finished it. Whether it is what it has to be, its sum will tell.
            return summed(_there(destination, path, piece.start, piece.end, flow))
        data = origin.read(piece.start, piece.end, flow)
        moved = summed(data)
        tag = destination.parted.put(path, upload.token, piece.index, piece.start, data, flow)
        return Moved(moved.size_bytes, moved.crc32c, tag)

    def _origin(self, body: dict[str, Any]) -> Origin:
        if body["action"] == "save":
            size = int(body.get("file_bytes", body["size_bytes"]))
            return Source(body["source"], body["path"], size, body["version"])
        return Committed(self._store, body["name"], body["step"], body["attempt"], body["path"])

    def _small(
        self, origin: Origin, destination: Destination, path: str, size: int, body: dict[str, Any], flow: Flow
    ) -> Moved:
        wanted = body.get("crc32c")
        if wanted and destination.holds(path) == size:
            moved = summed(_there(destination, path, 0, size, flow))
            if f"{moved.crc32c:08x}" == wanted:
                return moved
        data = origin.read(0, size, flow)
        moved = summed(data)
        check(body, moved.crc32c)
        destination.replace(path, data, flow)
        return moved

    def _whole(
        self, origin: Origin, destination: Destination, path: str, size: int, body: dict[str, Any], flow: Flow
    ) -> Moved:
        """A file of any size, where it can't be written in parts."""
        sums = Sum()
        if "crc32c" in body and destination.holds(path) == size:
            for start in range(0, size, PIECE_BYTES):
                sums.add(_there(destination, path, start, min(size, start + PIECE_BYTES), flow))
            if sums.crc32c == body["crc32c"]:
                return Moved(size, int(sums.crc32c, 16))
        sums = Sum()

        def parts() -> Iterator[bytes]:
            for start in range(0, max(1, size), PIECE_BYTES):
                data = origin.read(start, min(size, start + PIECE_BYTES), flow)
                sums.add(data)
                if sums.size_bytes == size:
                    check(body, int(sums.crc32c, 16))
                yield data

        destination.upload(path, parts())
        return Moved(size, int(sums.crc32c, 16))

    def _destination(self, body: dict[str, Any]) -> Destination:
        job = cast("str", body["job"])
        with self._lock:
            found = self._destinations.get(job)
            if found is None:
                match body["action"]:
                    case "restore":
                        folder = RestoreFolder(body["to"], job)
                        folder.enter(Uploads(self._store, job))
                        sweep_left(folder.folder.parent, self._store, now=time.time())
                        found = InFolder(folder)
                    case "replicate":
                        found = InStore(self._places.store(body["to"]), may_hold=True)
                    case _:
                        found = InStore(self._store, may_hold=False)
                remember(self._destinations, job, found)
            return found

    def _upload(self, destination: Destination, path: str, size: int, body: dict[str, Any]) -> Upload:
        parted = destination.parted
        assert parted is not None

        def begin() -> str:
            return "" if destination.holds(path) == size else parted.begin(path)

        key = (cast("str", body["job"]), int(body["file"]))
        with self._lock:
            found = self._uploads.get(key)
            if found is None:
                noted = Uploads(self._store, key[0])
                found = noted.of(key[1], path, begin, lambda token: parted.drop(path, token))
                remember(self._uploads, key, found)
            return found


def _warms(body: dict[str, Any]) -> bool:
    """Whether a piece goes into this node's cache."""
    return body["action"] == "restore" and "to" not in body


def _path(body: dict[str, Any]) -> str:
    path = cast("str", body["path"])
    return path if body["action"] == "restore" else file_path(body["name"], body["step"], body["attempt"], path)


def _there(destination: Destination, path: str, start: int, end: int, flow: Flow) -> bytes:
    try:
        return destination.read(path, start, end, flow)
    except ObjectNotFound as error:
        raise Unreadable("upload_gone", f"{path} was in the target and is gone: {error}") from error
