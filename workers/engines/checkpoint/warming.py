"""Pieces of a checkpoint into this node's cache."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar, cast

from ....jobs.checkpoints.uploads import PLACE, Uploads
from ....storage.checkpoints.manifest import file_path, read_manifest
from ....storage.checkpoints.node_cache import NodeCache, WarmFile, cache_of
from ....storage.checkpoints.origins import Origin
from ....storage.checkpoints.warming import sizes_of
from ....storage.errors import Corrupt, Interrupted, NotAllowedNow, Unreadable
from ....storage.flow import Flow
from ....storage.store import Store
from .pieces import Moved, Piece, remember, summed

_R = TypeVar("_R")


class Warming:
    """Brings pieces of committed files into the cache of the node that this process is on.

    Args:
        store: the jobs' own, which is the one that is cached.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._caches: OrderedDict[str, NodeCache | NotAllowedNow] = OrderedDict()
        self._files: OrderedDict[str, WarmFile] = OrderedDict()

    def move(self, piece: Piece, origin: Origin, flow: Flow) -> Moved:
        """See that a piece is in the cache, and what it sums up to there.

        Raises:
            NotAllowedNow: this node has no cache, not the one that the job was begun in, or no room in it.
            Unreadable: the file is not what its manifest says.
            StoreUnavailable, Interrupted: nothing of the piece counts.
        """
        body, start, end = piece.row.body, piece.start, piece.end
        size = int(body["file_bytes"])
        cache = self._cache(body, flow)
        if not size:
            return summed(b"")
        file = self._file(cache, body, size, flow)
        data = file.read(start, end)
        if data is None:
            came = origin.read(start, end, flow)
            if not file.put(start, came, flow):
                raise NotAllowedNow(
                    f"The cache in {cache.folder} has no room any more; others have filled it meanwhile."
                )
            data = file.read(start, end)
            if data is None:
                raise Unreadable("corrupt", f"{body['path']} can't be read back from the cache in {cache.folder}")
        return summed(data)

    def drop(self, body: dict[str, Any]) -> None:
        """Let go of a file that is not what its manifest says; a later reader asks the store for it."""
        cache = self._caches.get(body["job"])
        if isinstance(cache, NodeCache):
            cache.drop(self._path(body), int(body["file_bytes"]))

    def _cache(self, body: dict[str, Any], flow: Flow) -> NodeCache:
        """The cache, entered by the job: the same one for all its workers, and with room for all of the step."""
        job = cast("str", body["job"])
        with self._lock:
            found = self._caches.get(job)
            if found is None:
                try:
                    found = _stoppable(flow, lambda: self._entered(body))
                except NotAllowedNow as error:
                    found = error  # for all its pieces
                remember(self._caches, job, found)
        if isinstance(found, NotAllowedNow):
            raise NotAllowedNow(str(found))
        return found

    def _entered(self, body: dict[str, Any]) -> NodeCache:
        found = cache_of(self._store, body["name"])
        begun = Uploads(self._store, body["job"]).note(PLACE, {"token": found.id})
        if begun["token"] != found.id:
            raise NotAllowedNow(
                f"The cache in {found.folder} is not the one that this job has begun to warm: this worker is on "
                f"another node. Warm by a pool of one node, or each by `holdshort checkpoint restore --warm` there."
            )
        manifest = read_manifest(self._store, body["name"], body["step"])
        found.make_room(sizes_of(self._store, manifest), f"step {manifest.step} of {manifest.name}")
        return found

    def _file(self, cache: NodeCache, body: dict[str, Any], size: int, flow: Flow) -> WarmFile:
        path = self._path(body)
        key = f"{body['job']} {path}"
        with self._lock:
            found = self._files.get(key)
        if found is None:
            try:
                found = _stoppable(flow, lambda: cache.file(path, size))
            except Corrupt as error:
                raise Unreadable(
                    "missing" if "missing" in str(error) else "corrupt", f"{body['path']}: {error}"
                ) from error
            with self._lock:
                remember(self._files, key, found)
        return found

    def _path(self, body: dict[str, Any]) -> str:
        located = self._store.located(file_path(body["name"], body["step"], body["attempt"], body["path"]))
        assert located is not None
        return located.path


def _stoppable(flow: Flow, ask: Callable[[], _R]) -> _R:
    """The answer to a short question to the store; Interrupted once `flow` is stopped, whatever becomes of it."""
    found: list[_R] = []
    failed: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            found.append(ask())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            failed.append(error)
        done.set()

    flow.check()
    threading.Thread(target=run, name="ask", daemon=True).start()
    with flow.cutting(done.set):
        done.wait()
    if found:
        return found[0]
    if failed:
        raise failed[0]
    flow.check()
    raise Interrupted("the question was interrupted")
