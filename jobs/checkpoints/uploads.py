"""What a job has begun and must finish or drop: noted in its store, once, so that all its workers share it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

from ...storage.errors import Corrupt, ObjectNotFound
from ...storage.store import Store
from ..ledger import layout

PLACE = "place"
SETTLED = "settled"


@dataclass(frozen=True, slots=True)
class Upload:
    """A file in parts.

    Attributes:
        token: of its parts; "" when the file was there already, as large as it has to be.
    """

    path: str
    token: str

    @property
    def was_there(self) -> bool:
        return not self.token


class Uploads:
    """The uploads of one job.

    Args:
        store: the job's own, where its ledger is; the files may be elsewhere.
    """

    def __init__(self, store: Store, job_id: str) -> None:
        self._store = store
        self._job = job_id

    def of(self, file: int, path: str, begin: Callable[[], str], drop: Callable[[str], None]) -> Upload:
        """The upload of a file, begun now if nobody has; of several that begin it at once, one is kept.

        Args:
            begin: gives the token, or "" for a file that is there.
            drop: gives up what somebody else was faster with.
        """
        at = layout.upload(self._job, file)
        with suppress(ObjectNotFound):
            return _decoded(self._store.read(at))
        upload = Upload(path, begin())
        if self._store.create(at, orjson.dumps({"path": path, "token": upload.token})):
            return upload
        found = _decoded(self._store.read(at))
        if upload.token and found.token != upload.token:
            drop(upload.token)
        return found

    def all(self) -> Iterator[Upload]:
        """Every upload that was noted."""
        folder = layout.uploads(self._job)
        for name in self._store.list(folder):
            if name.isdigit():
                yield _decoded(self._store.read(f"{folder}/{name}"))

    def note(self, name: str, value: dict[str, Any]) -> dict[str, Any]:
        """Note something once; returns what is noted, by us or by somebody before."""
        at = f"{layout.uploads(self._job)}/{name}"
        if self._store.create(at, orjson.dumps(value)):
            return value
        return orjson.loads(self._store.read(at))

    def noted(self, name: str) -> dict[str, Any] | None:
        """What was noted; None if nothing was."""
        try:
            return orjson.loads(self._store.read(f"{layout.uploads(self._job)}/{name}"))
        except ObjectNotFound:
            return None


def _decoded(data: bytes) -> Upload:
    try:
        found = orjson.loads(data)
        return Upload(found["path"], found["token"])
    except (ValueError, TypeError, KeyError) as error:
        raise Corrupt(f"the note of an upload can't be read: {error!r}") from error
