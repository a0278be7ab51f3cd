"""An attempt to write a step: who writes it, whether it may still be committed, and how its ranks agree.

    checkpoints/<name>/<step>/<attempt>/<file>            the files
    checkpoints/<name>/<step>/<attempt>.lease.<rank>      that somebody writes; renewed while it does
    checkpoints/<name>/<step>/<attempt>.part.<rank>       what one of several ranks has written, once it is done
    checkpoints/<name>/<step>/<attempt>.fate              "sealed" or "dead": created once, so one of the two

Whoever commits first creates the fate as sealed, whoever removes files first creates it as dead, and then looks for a
manifest, as the seal goes once that is there. So nothing of a sealed attempt is ever removed while it can become
visible, and nothing can be committed of which something was removed; however wrong clocks are, and however long a
process slept in between.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import orjson

from ..errors import AttemptLost, Corrupt, NotAllowedNow, ObjectNotFound, StoreError, StoreUnavailable
from ..patience import PatientStore
from ..store import Store
from .manifest import VERSION, CopiedFile, Manifest, commit_manifest, file_path, manifest_path, read_manifest

log = logging.getLogger(__name__)

RENEW_S = 10.0
SILENT_S = 3600.0
"""After how long without a renewal an attempt counts as given up."""

Fate = Literal["sealed", "dead"]

_ABOUT = re.compile(r"([0-9a-zA-Z]+)\.(?:(lease|part)\.([0-9]{1,6})|(fate))")
_SILENT_RANK_S = 6 * RENEW_S
_POLL_FIRST_S, _POLL_MOST_S = 0.05, 2.0


def folder_of(name: str, step: int) -> str:
    """Where the attempts of a step are."""
    return manifest_path(name, step).removesuffix(".json")


@dataclass(slots=True)
class Found:
    """What lies in the store of an attempt."""

    attempt: str
    has_files: bool = False
    has_fate: bool = False
    leases: tuple[int, ...] = ()
    parts: tuple[int, ...] = ()


def attempts_of(store: Store, name: str, step: int) -> dict[str, Found]:
    """The attempts of a step, by their names."""
    found: dict[str, Found] = {}
    for entry in store.list(folder_of(name, step)):
        if entry.endswith("/"):
            attempt = entry[:-1]
            found.setdefault(attempt, Found(attempt)).has_files = True
        elif about := _ABOUT.fullmatch(entry):
            attempt, kind, rank, fate = about.groups()
            one = found.setdefault(attempt, Found(attempt))
            one.has_fate = one.has_fate or bool(fate)
            if kind == "lease":
                one.leases = (*one.leases, int(rank))
            elif kind == "part":
                one.parts = (*one.parts, int(rank))
    return found


def fate_of(store: Store, name: str, step: int, attempt: str) -> tuple[Fate | None, str]:
    """How it was decided about an attempt, and why; None as long as it was not."""
    try:
        said: dict[str, Any] = orjson.loads(store.read(_fate_path(name, step, attempt)))
        fate = said["fate"]
        if fate not in ("sealed", "dead"):
            raise ValueError(fate)
        return fate, str(said["why"])
    except ObjectNotFound:
        return None, ""
    except (ValueError, TypeError, KeyError) as error:
        raise Corrupt(f"{_fate_path(name, step, attempt)} in {store.url} can't be read: {error!r}") from error


def decide(store: Store, name: str, step: int, attempt: str, fate: Fate, why: str) -> tuple[Fate, str]:
    """Decide about an attempt, unless that was done; returns what holds, and why."""
    path = _fate_path(name, step, attempt)
    if store.create(path, orjson.dumps({"fate": fate, "why": why, "at": time.time()})):
        return fate, why
    held, reason = fate_of(store, name, step, attempt)
    if held is None:  # it was there, and is not any more: the attempt was removed just now
        return "dead", "it was removed"
    return held, reason


def silent_for_s(store: Store, name: str, step: int, found: Found, now: float) -> float | None:
    """How long none of its writers has renewed its lease; None for an attempt without a lease.

    Args:
        now: seconds since the epoch, as the writers' clocks would say, more or less.
    """
    ages: list[float] = []
    for rank in found.leases:
        with suppress(ObjectNotFound):
            ages.append(now - _renewed_at(store.read(_lease_path(name, step, found.attempt, rank))))
    return min(ages) if ages else None


def remove(store: Store, name: str, step: int, found: Found) -> None:
    """Remove what is left of an attempt whose fate is dead, or whose step is another's; the fate last.

    Whoever is killed in the middle leaves what tells the next one to go on. Raises StoreUnavailable if files are left.
    """
    folder = f"{folder_of(name, step)}/{found.attempt}"
    store.delete_folder(folder)
    if left := file_below(store, folder):  # a client may take a store in trouble for a folder that is not there
        raise StoreUnavailable(f"{folder} in {store.url} was not removed: {left} is still there. Try again later.")
    tidy(store, name, step, found)


def file_below(store: Store, folder: str) -> str:
    """A file below a folder; "" if there is none. Some stores list folders that are empty."""
    for entry in store.list(folder):
        found = file_below(store, f"{folder}/{entry[:-1]}") if entry.endswith("/") else entry
        if found:
            return found
    return ""


def tidy(store: Store, name: str, step: int, found: Found) -> None:
    """Remove what lies in the store of an attempt beside its files."""
    for rank in found.parts:
        store.delete(_part_path(name, step, found.attempt, rank))
    for rank in found.leases:
        store.delete(_lease_path(name, step, found.attempt, rank))
    store.delete(_fate_path(name, step, found.attempt))


class Attempt:
    """One rank's share of an attempt. Made by `begin`; ended by `commit` or `give_up`.

    Attributes:
        attempt: its name.
    """

    def __init__(
        self, store: Store, name: str, step: int, *, attempt: str = "", rank: int = 0, ranks: int = 1,
        patience_s: float, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.attempt = attempt or new_attempt()
        self._store = PatientStore(store, patience_s=patience_s)
        self._name, self._step, self._rank, self._ranks = name, step, rank, ranks
        self._lease = _lease_path(name, step, self.attempt, rank)
        self._mine = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._clock = clock
        self._renewed = clock()
        self._ended = threading.Event()
        self._is_visible_perhaps = False

    def begin(self) -> None:
        """Take part, unless that can't lead to anything.

        Raises:
            NotAllowedNow: the step is committed, or this rank took part before.
            AttemptLost: it was given up, by another rank.
        """
        with suppress(ObjectNotFound):
            raise _taken(read_manifest(self._store, self._name, self._step))
        if self._ranks > 1:
            if not self._store.create(self._lease, self._lease_content()) and self._not_ours():
                raise NotAllowedNow(
                    f"Rank {self._rank} has begun to save step {self._step} of {self._name} with this token before. "
                    f"A token is good for one try at a step: make a new one, the same for all ranks."
                )
            fate, why = fate_of(self._store, self._name, self._step, self.attempt)
            if fate == "dead":
                self._store.delete(self._lease)
                raise self._lost(why)
        else:
            self._store.replace(self._lease, self._lease_content())
        self._renewed = self._clock()
        # It ends with the process: a lease is a promise to go on.
        threading.Thread(target=self._renew, name="checkpoint lease", daemon=True).start()

    def file_path(self, path: str) -> str:
        """Where a file of this attempt lies in the store."""
        return file_path(self._name, self._step, self.attempt, path)

    def commit(self, files: Sequence[CopiedFile], *, timeout_s: float) -> Manifest:
        """Make the step visible; with several ranks, once all of them have come so far.

        Args:
            files: that this rank has written.
            timeout_s: how long to wait for other ranks.

        Raises:
            AttemptLost: a rank has failed, or is silent, or too late; or files are gone. Nothing is visible.
            NotAllowedNow: the step was committed by another attempt meanwhile.
        """
        all_files = files if self._ranks == 1 else self._all_files(files, timeout_s)
        if all_files is not None:
            self._commit(all_files)
        manifest = read_manifest(self._store, self._name, self._step)
        if manifest.attempt != self.attempt:
            raise _taken(manifest)
        self._end()
        return manifest

    def give_up(self, why: str) -> None:
        """Nothing of this attempt is to be seen. Others learn of it; what can be removed now is removed."""
        self._ended.set()
        if self._is_visible_perhaps and not self._is_taken():
            return  # an answer was lost, or comes late
        decide(self._store, self._name, self._step, self.attempt, "dead", why)
        if self._ranks > 1:
            # Others may be writing: whoever collects removes the rest when all are silent.
            self._store.delete(self._lease)
        else:
            remove(self._store, self._name, self._step, Found(self.attempt, leases=(self._rank,)))

    def abandon(self, why: str) -> None:
        """Nothing of this attempt is to be seen, but others may still be writing to it: it is left to be collected."""
        self._ended.set()
        try:
            decide(self._store, self._name, self._step, self.attempt, "dead", why)
        except StoreError as error:
            log.warning("Step %s of %s was given up; the store does not know: %s", self._step, self._name, error)

    def stop_renewing(self) -> None:
        """Nobody works on it any more; once its lease is old enough, it is collected."""
        self._ended.set()

    def give_up_quietly(self, why: str) -> None:
        """The same, but what goes wrong with it is only logged: nothing is visible either way."""
        try:
            self.give_up(why)
        except StoreError as error:
            log.warning("What was written of step %s of %s is left to be collected: %s", self._step, self._name, error)

    # -- inside ------------------------------------------------------------------------------------------

    def _commit(self, files: Sequence[CopiedFile]) -> None:
        slept_s = self._clock() - self._renewed
        if slept_s > SILENT_S / 2:
            raise self._lost(f"its writer could not renew its lease for {slept_s:.0f} s")
        fate, why = decide(self._store, self._name, self._step, self.attempt, "sealed", f"by rank {self._rank}")
        if fate == "dead":
            with suppress(ObjectNotFound):  # other ranks may have been faster with all of this
                if read_manifest(self._store, self._name, self._step).attempt == self.attempt:
                    return
            raise self._lost(why)
        # From now on nobody removes anything; what was removed before is seen here.
        with suppress(ObjectNotFound):
            if read_manifest(self._store, self._name, self._step).attempt == self.attempt:
                return
        if gone := self._missing(files):
            raise self._lost(f"{gone} is not in the store any more")
        self._is_visible_perhaps = True  # even if no answer comes
        commit_manifest(self._store, self._name, self._step, attempt=self.attempt, files=files)

    def _is_taken(self) -> bool:
        """Whether another attempt holds the step, so that this one never will."""
        with suppress(ObjectNotFound):
            return read_manifest(self._store, self._name, self._step).attempt != self.attempt
        return False

    def _missing(self, files: Sequence[CopiedFile]) -> str:
        """A file that is not there; "" if all are."""
        listed: dict[str, set[str]] = {}
        for file in files:
            folder, _, last = self.file_path(file.path).rpartition("/")
            if folder not in listed:
                listed[folder] = set(self._store.list(folder))
            if last not in listed[folder]:
                return file.path
        return ""

    def _all_files(self, files: Sequence[CopiedFile], timeout_s: float) -> list[CopiedFile] | None:
        """The files of all ranks once all are there; None if the step was committed by then."""
        ours = orjson.dumps({"version": VERSION, "ranks": self._ranks, "files": [asdict(file) for file in files]})
        path = _part_path(self._name, self._step, self.attempt, self._rank)
        if not self._store.create(path, ours) and self._store.read(path) != ours:
            raise NotAllowedNow(
                f"Rank {self._rank} has saved step {self._step} of {self._name} with this token before."
            )
        end, pause_s, heard = self._clock() + timeout_s, _POLL_FIRST_S, _Heard(self._lease_of, self._clock)
        while True:
            with suppress(ObjectNotFound):
                read_manifest(self._store, self._name, self._step)
                return None
            found = attempts_of(self._store, self._name, self._step).get(self.attempt, Found(self.attempt))
            if found.has_fate:
                fate, why = fate_of(self._store, self._name, self._step, self.attempt)
                if fate == "dead":
                    raise self._lost(why)
            if set(found.parts) >= set(range(self._ranks)):
                with suppress(ObjectNotFound):  # removed, as it was committed just now
                    return self._merged()
            absent = sorted(set(range(self._ranks)) - set(found.parts))
            if silent := [rank for rank in absent if rank in found.leases and heard.is_silent(rank)]:
                raise self._lost(f"nothing was heard of ranks {silent} for {_SILENT_RANK_S:g} s")
            if self._clock() > end:
                raise self._lost(f"ranks {absent} have not written their part within {timeout_s:g} s")
            time.sleep(pause_s)
            pause_s = min(_POLL_MOST_S, pause_s * 1.5)

    def _lease_of(self, rank: int) -> bytes:
        with suppress(ObjectNotFound):
            return self._store.read(_lease_path(self._name, self._step, self.attempt, rank))
        return b""

    def _merged(self) -> list[CopiedFile]:
        merged: dict[str, CopiedFile] = {}
        for rank in range(self._ranks):
            data = self._store.read(_part_path(self._name, self._step, self.attempt, rank))
            try:
                said: dict[str, Any] = orjson.loads(data)
                ranks, files = int(said["ranks"]), [CopiedFile(**each) for each in said["files"]]
            except (ValueError, TypeError, KeyError) as error:
                raise Corrupt(f"the part of rank {rank} of step {self._step} can't be read: {error!r}") from error
            if ranks != self._ranks:
                raise self._lost(f"rank {rank} was told of {ranks} ranks, rank {self._rank} of {self._ranks}")
            for file in files:
                if file.path in merged:
                    raise self._lost(f"two ranks have written {file.path}: each needs names of its own")
                merged[file.path] = file
        return list(merged.values())

    def _end(self) -> None:
        """What was needed until the commit goes. A rank that is slower sees the manifest."""
        self._ended.set()
        try:
            for path in (_part_path(self._name, self._step, self.attempt, self._rank), self._lease):
                self._store.delete(path)
            self._store.delete(_fate_path(self._name, self._step, self.attempt))
        except StoreUnavailable as error:
            log.info("Step %s of %s is committed; its lease is left to be collected: %s", self._step, self._name, error)

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_S):
            try:
                self._store.replace(self._lease, self._lease_content())
                self._renewed = self._clock()
            except StoreError as error:
                log.warning("The lease of step %s of %s could not be renewed: %s", self._step, self._name, error)

    def _lease_content(self) -> bytes:
        return orjson.dumps({"writer": self._mine, "renewed_at": time.time(), "every_s": RENEW_S})

    def _not_ours(self) -> bool:
        """Whether somebody else's lease is there; ours may be, from an answer that was lost."""
        with suppress(ObjectNotFound, ValueError, TypeError, KeyError):
            return cast("str", orjson.loads(self._store.read(self._lease))["writer"]) != self._mine
        return True

    def _lost(self, why: str) -> AttemptLost:
        return AttemptLost(f"Step {self._step} of {self._name} was not saved: {why}. Nothing of it is visible.")


class _Heard:
    """When something was last heard of other ranks, by our clock: clocks of other hosts may be wrong."""

    def __init__(self, lease_of: Callable[[int], bytes], clock: Callable[[], float]) -> None:
        self._lease_of, self._clock = lease_of, clock
        self._looked: dict[int, float] = {}
        self._last: dict[int, tuple[bytes, float]] = {}

    def is_silent(self, rank: int) -> bool:
        now = self._clock()
        if now - self._looked.get(rank, -RENEW_S) >= RENEW_S:
            self._looked[rank] = now
            lease = self._lease_of(rank)
            if rank not in self._last or self._last[rank][0] != lease:
                self._last[rank] = (lease, now)
        return now - self._last[rank][1] > _SILENT_RANK_S


def new_attempt() -> str:
    """A name that no other attempt has."""
    return f"s{time.time_ns() // 10**6:011x}{secrets.token_hex(5)}"


def _taken(manifest: Manifest) -> NotAllowedNow:
    return NotAllowedNow(
        f"Step {manifest.step} of {manifest.name} was committed before, by {manifest.attempt}. "
        f"A step is never overwritten; to save it anew, discard it first."
    )


def _renewed_at(data: bytes) -> float:
    """Of a lease; one that can't be read counts as never renewed."""
    try:
        return float(orjson.loads(data)["renewed_at"])
    except (ValueError, TypeError, KeyError):
        return 0.0


def _lease_path(name: str, step: int, attempt: str, rank: int) -> str:
    return f"{folder_of(name, step)}/{attempt}.lease.{rank}"


def _part_path(name: str, step: int, attempt: str, rank: int) -> str:
    return f"{folder_of(name, step)}/{attempt}.part.{rank}"


def _fate_path(name: str, step: int, attempt: str) -> str:
    return f"{folder_of(name, step)}/{attempt}.fate"
