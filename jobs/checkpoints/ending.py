"""What has to happen when all rows of a checkpoint job are done: files finished, a manifest committed, a folder named.

All of it can be done twice, or by several processes at once. What came of it is noted before the outcome is written.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import groupby
from typing import cast

from ...storage.checkpoints.manifest import (
    commit_manifest,
    file_path,
    manifest_path,
    read_manifest,
)
from ...storage.errors import Corrupt, NotAllowedNow, ObjectNotFound, StoreError, StoreUnavailable, UploadGone
from ...storage.parted.protocol import Parted
from ...storage.store import Store
from ..ledger import Ledger
from ..record import JobRecord, Outcome
from .falling_back import UnderWay, fall_back, may_fall_back, unreadable_after
from .places import Places
from .restore_folder import restore_folder
from .row_done import File, RowDone, difference, files_of, is_damaged, mismatches, rows_done
from .uploads import SETTLED, Uploads

log = logging.getLogger(__name__)

_NAMED = 5
_DONE: Mapping[str, str] = {
    "save": "copied", "restore": "restored", "verify": "whole", "prune": "looked at", "replicate": "replicated",
}  # fmt: skip


class NotHere(Exception):
    """Raised when only a worker can end the job, or it waits for another one."""


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
        rows = rows_done(self._ledger, self._record)
        try:
            match self._action:
                case "save":
                    why = self._all_ok(rows) or self._save(files_of(rows))
                case "restore":
                    why = self._all_ok(rows) or _differing(files_of(rows))
                    if why and may_fall_back(self._record) and is_damaged(rows):
                        return self._older(outcome, rows[0].step, why)
                    why = why or self._restore(files_of(rows))
                    if not why and may_fall_back(self._record):
                        outcome = self._saying_what_was_passed_over(outcome, rows[0].step)
                case "verify":
                    why = self._all_ok(rows, differing=mismatches(files_of(rows, partly=True)))
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

    def _saying_what_was_passed_over(self, outcome: Outcome, step: int) -> Outcome:
        """Steps that could not even be read when the job was submitted are not in its rows."""
        found = unreadable_after(self._store, self._name, step)
        return replace(outcome, reason="; ".join([*found, f"step {step} was restored instead"])) if found else outcome

    def _older(self, outcome: Outcome, step: int, why: str) -> Outcome:
        if self._places is None:
            raise NotHere
        try:
            state, reason = fall_back(self._ledger, self._record, step, why, self._places)
        except UnderWay as error:
            raise NotHere from error
        return replace(outcome, state=state, reason=reason)

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

    def _replicate(self, rows: list[RowDone]) -> str:
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
            files = files_of(done)
            if bad := mismatches(files):
                why.append(f"step {step}: " + _listed([self._damaged(target, file) for file in bad]))
                continue
            self._finish(target, target.parted, files)
            if problem := self._commit(target, step, files[0].attempt, files):
                why.append(problem)
        return "; ".join(why)

    def _damaged(self, target: Store, file: File) -> str:
        at, what = self._at(file), f"{file.copied.path} {difference(file)}"
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

    def _all_ok(self, rows: list[RowDone], differing: Iterable[File] = ()) -> str:
        """What is wrong, if anything is."""
        bad = {row.file: row.error for row in rows if row.error}
        for file in differing:
            bad.setdefault(f"{file.step}/{file.copied.path}", difference(file))
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


def _differing(files: Iterable[File]) -> str:
    return _listed([f"{file.name} {difference(file)}" for file in mismatches(files)])


def _listed(problems: list[str]) -> str:
    shown = "; ".join(problems[:_NAMED])
    return shown if len(problems) <= _NAMED else f"{shown}; and {len(problems) - _NAMED} more"
