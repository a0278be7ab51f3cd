"""What has to happen when all rows of a checkpoint job are done: files finished, a manifest committed, a folder named.

All of it can be done twice, or by several processes at once. What came of it is noted before the outcome is written.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, cast

import orjson

from ...storage.checkpoints.manifest import (
    CopiedFile,
    commit_manifest,
    file_path,
    manifest_path,
    read_manifest,
)
from ...storage.crc32c import of_slices
from ...storage.errors import Corrupt, NotAllowedNow, ObjectNotFound, StoreError, StoreUnavailable, UploadGone
from ...storage.parted.protocol import Parted
from ...storage.store import Store
from ..ledger import Ledger
from ..record import JobRecord, Outcome
from .accepting import file_of
from .places import Places
from .restore_folder import restore_folder
from .uploads import SETTLED, Uploads

log = logging.getLogger(__name__)

_NAMED = 5
_DONE: Mapping[str, str] = {
    "save": "copied", "restore": "restored", "verify": "whole", "prune": "looked at", "replicate": "replicated",
}  # fmt: skip


class NotHere(Exception):
    """Raised when only a worker can end the job."""


@dataclass(frozen=True, slots=True)
class File:
    """A file all of whose slices are done.

    Attributes:
        tags: of its pieces, in order; none for a file that was written whole.
        wanted: its CRC32C by the manifest it comes from; "" for one that is saved.
    """

    number: int
    step: int
    attempt: str
    copied: CopiedFile
    tags: tuple[str, ...]
    wanted: str

    @property
    def name(self) -> str:
        return f"{self.copied.path} of step {self.step}"


def end(ledger: Ledger, record: JobRecord, outcome: Outcome, places: Places | None) -> Outcome:
    """The outcome of a job whose stripes have all ended, after what it depends on has been done.

    Args:
        places: what else this process can reach; None: nothing.

    Raises:
        NotHere: a worker has to do it.
        StoreUnavailable: it can't be done now.
    """
    uploads = Uploads(ledger.store, record.id)
    noted = uploads.noted(SETTLED)
    if noted is None:
        ending = _Ending(ledger, record, uploads, places)
        found = ending.complete(outcome) if outcome.state == "completed" else outcome
        if found.state != "completed":
            ending.give_up()
        noted = uploads.note(SETTLED, {"state": found.state, "reason": found.reason})
    folder = restore_folder(record)
    if folder is not None and places is not None and places.is_worker:
        folder.tidy()
    return replace(outcome, state=noted["state"], reason=noted["reason"])


def drop_left(ledger: Ledger, record: JobRecord, places: Places) -> None:
    """Give up again what an ended job may have begun after it was given up. For a controller, now and then."""
    uploads = Uploads(ledger.store, record.id)
    noted = uploads.noted(SETTLED)
    if noted is not None and noted["state"] != "completed":
        _Ending(ledger, record, uploads, places).give_up()


class _Ending:
    def __init__(self, ledger: Ledger, record: JobRecord, uploads: Uploads, places: Places | None) -> None:
        self._ledger = ledger
        self._store = ledger.store
        self._record = record
        self._uploads = uploads
        self._places = places
        self._name = cast("str", record.spec["name"])
        self._action = record.action
        self._folder = restore_folder(record)

    # -- a job all of whose rows have ended --------------------------------------------------------------

    def complete(self, outcome: Outcome) -> Outcome:
        needs_worker = self._folder is not None or self._action == "replicate"
        if needs_worker and not (self._places and self._places.is_worker):
            raise NotHere
        rows = list(self._rows())
        try:
            match self._action:
                case "save":
                    why = self._all_ok(rows) or self._save(_files(rows))
                case "restore":
                    why = self._all_ok(rows) or _differing(_files(rows)) or self._restore(_files(rows))
                case "verify":
                    why = self._all_ok(rows, differing=_mismatches(_files(rows, partly=True)))
                case "replicate":
                    why = self._replicate(rows)
                case _:
                    why = self._all_ok(rows)
        except (UploadGone, NotAllowedNow) as error:
            why = f"{error} Nothing is visible."
        return outcome if not why else replace(outcome, state="failed", reason=why)

    def _save(self, files: list[File]) -> str:
        step = int(self._record.spec["step"])
        self._finish(self._store, self._store.parted, files)
        return self._commit(self._store, step, self._record.id, files)

    def _restore(self, files: list[File]) -> str:
        if self._folder is None:
            return ""  # they are in the cache
        self._folder.enter(self._uploads)
        if self._folder.has_appeared:
            return ""
        uploads = {upload.path: upload.token for upload in self._uploads.all()}
        for file in files:
            path, size = file.copied.path, file.copied.size_bytes
            if path in uploads:
                self._folder.parted.finish(path, uploads[path], file.tags, size)
            self._folder.check(path, size)
        self._folder.appear()
        return ""

    def _replicate(self, rows: list[_RowDone]) -> str:
        target = self._target()
        assert target is not None
        why: list[str] = []
        for step, of_step in groupby(rows, key=lambda row: row.step):
            done = list(of_step)
            if any(row.was_there for row in done):
                continue
            if problem := self._all_ok(done):
                why.append(f"step {step}: {problem}")
                continue
            files = _files(done)
            if bad := _mismatches(files):
                why.append(f"step {step}: " + _listed([self._damaged(target, file) for file in bad]))
                continue
            self._finish(target, target.parted, files)
            if problem := self._commit(target, step, files[0].attempt, files):
                why.append(problem)
        return "; ".join(why)

    def _damaged(self, target: Store, file: File) -> str:
        at, what = self._at(file), f"{file.copied.path} {_difference(file)}"
        if not any(upload.path == at and upload.was_there for upload in self._uploads.all()):
            return what
        # An earlier try had left it there; once it is gone, the next one copies it anew.
        target.delete(at)
        return f"{what}: it had been left in {target.url}, and is removed; submit the job again"

    def _finish(self, store: Store, parted: Parted | None, files: Iterable[File]) -> None:
        uploads = {upload.path: upload.token for upload in self._uploads.all()}
        for file in files:
            at = self._at(file)
            if parted is not None and uploads.get(at):
                parted.finish(at, uploads[at], file.tags, file.copied.size_bytes)

    def _commit(self, store: Store, step: int, attempt: str, files: list[File]) -> str:
        holder = commit_manifest(store, self._name, step, attempt=attempt, files=[file.copied for file in files])
        return "" if holder == attempt else f"step {step} of {self._name} was committed before, by job {holder}"

    # -- a job that failed, was cancelled or has expired -------------------------------------------------

    def give_up(self) -> None:
        """Drop what was begun and belongs to no committed step."""
        if self._folder is not None:
            # On another host, or before any worker began it, there is nothing to see here.
            self._folder.tidy()
        if self._action == "restore":
            return
        try:
            target = self._target() if self._action == "replicate" else self._store
            if target is None or target.parted is None:
                return
            for upload in self._uploads.all():
                if not upload.was_there:
                    target.parted.drop(upload.path, upload.token)
        except (StoreError, OSError) as error:
            if self._action != "replicate":
                raise
            log.warning("job %s: what it began in %s stays there: %s", self._record.id, self._record.spec["to"], error)
        if self._action == "save" and not self._is_committed():
            step = int(self._record.spec["step"])
            self._store.delete_folder(f"{manifest_path(self._name, step).removesuffix('.json')}/{self._record.id}")

    def _is_committed(self) -> bool:
        try:
            return read_manifest(self._store, self._name, int(self._record.spec["step"])).attempt == self._record.id
        except (ObjectNotFound, Corrupt):
            return False

    def _target(self) -> Store | None:
        if self._places is None:
            raise NotHere
        # What can't be opened for now may be another time: nothing here is worth losing a job for.
        try:
            return self._places.store(self._record.spec["to"])
        except StoreUnavailable:
            raise
        except StoreError as error:
            raise StoreUnavailable(f"{self._record.spec['to']} can't be opened: {error}") from error

    # -- rows --------------------------------------------------------------------------------------------

    def _rows(self) -> Iterator[_RowDone]:
        for shard in range(self._record.shards):
            for line in self._ledger.shard(self._record.id, shard)[1]:
                yield _RowDone(orjson.loads(line), self._record)

    def _all_ok(self, rows: list[_RowDone], differing: Iterable[File] = ()) -> str:
        """What is wrong, if anything is."""
        bad = {row.file: row.error for row in rows if row.error}
        for file in differing:
            bad.setdefault(f"{file.step}/{file.copied.path}", _difference(file))
        if not bad:
            return ""
        everything = len({row.file for row in rows})
        unit = "steps" if self._action == "prune" else "files"
        what = f"{len(bad)} of {everything} {unit} were not {_DONE[self._action]}"
        if self._action == "verify":
            what = f"{len(bad)} of {everything} files are not whole"
        if self._action == "save" or self._folder is not None:
            what += " (see the job's results); nothing is visible"
        elif self._action == "restore":
            what += " (see the job's results)"
        return what + ": " + _listed([f"{name}: {problem}" for name, problem in bad.items()])

    def _at(self, file: File) -> str:
        return file_path(self._name, file.step, file.attempt, file.copied.path)


class _RowDone:
    """A row's result line."""

    def __init__(self, line: dict[str, Any], record: JobRecord) -> None:
        self.custom_id: str = line["custom_id"]
        self.file = file_of(self.custom_id)
        self.error: str = line["error"]["message"] if line["error"] else ""
        self.body: dict[str, Any] = {} if line["response"] is None else line["response"]["body"]
        begins = self.file.partition("/")[0]
        own = int(record.spec["step"]) if record.action == "save" else int(begins) if begins.isdigit() else 0
        self.step = int(self.body.get("step", own))
        self.attempt: str = self.body.get("attempt", record.id)

    @property
    def was_there(self) -> bool:
        """Whether the whole step was in the target before."""
        return bool(self.body.get("there"))


def _files(rows: Iterable[_RowDone], *, partly: bool = False) -> list[File]:
    """The files whose slices are all there. Raises Corrupt if some are missing, unless `partly`."""
    found: list[File] = []
    slices = [row for row in rows if "crc32c" in row.body]
    # Jobs that were accepted by a version before slices have no number: there a row is a file.
    slices.sort(key=lambda row: (row.step, row.body["path"], row.body.get("first", 0)))
    for number, ((step, path), group) in enumerate(groupby(slices, key=lambda row: (row.step, row.body["path"]))):
        each = list(group)
        size = int(each[0].body.get("file_bytes", each[0].body["size_bytes"]))
        if sum(int(row.body["size_bytes"]) for row in each) != size:
            if partly:
                continue
            raise Corrupt(f"{path} of step {step} has {size} bytes, but its slices have others; the job is left")
        crc = of_slices((int(row.body["crc32c"], 16), int(row.body["size_bytes"])) for row in each)
        tags = tuple(tag for row in each for tag in row.body.get("tags", ()))
        copied = CopiedFile(path, size, f"{crc:08x}")
        found.append(File(number, step, each[0].attempt, copied, tags, each[0].body.get("wanted", "")))
    return found


def _mismatches(files: Iterable[File]) -> list[File]:
    return [file for file in files if file.wanted and file.wanted != file.copied.crc32c]


def _differing(files: Iterable[File]) -> str:
    return _listed([f"{file.name} {_difference(file)}" for file in _mismatches(files)])


def _difference(file: File) -> str:
    return f"has CRC32C {file.copied.crc32c}, not {file.wanted}"


def _listed(problems: list[str]) -> str:
    shown = "; ".join(problems[:_NAMED])
    return shown if len(problems) <= _NAMED else f"{shown}; and {len(problems) - _NAMED} more"
