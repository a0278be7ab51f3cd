"""Removes what dead attempts left in a store, while others write."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import ObjectNotFound
from ..patience import PatientStore
from ..store import Store
from .attempts import SILENT_S, Found, attempts_of, decide, fate_of, file_below, folder_of, remove, silent_for_s, tidy
from .manifest import read_manifest
from .restoring import remove_step

_PATIENCE_S = 30.0
LEAST_SILENT_S = 60.0
SEALED_SILENT_S = 7 * 24 * 3600.0
"""After how long an attempt counts as given up whose writer had decided to commit it. All else that is collected can't
be committed any more; of this one we rely on it that nobody sleeps for a week between two requests."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """An attempt that holds no step, and what was or was not done about it.

    Attributes:
        removed: whether its files were removed.
        why: in a few words.
    """

    step: int
    attempt: str
    removed: bool
    why: str


def collect(
    store: Store, name: str, *, silent_s: float = SILENT_S, really: bool = True, now: Callable[[], float] = time.time
) -> list[Leftover]:
    """Remove attempts that can't become visible any more, and say which are left and why.

    Nothing is removed of an attempt that is being written, or that may be about to become visible. One whose writer
    only slept, and wakes up later, fails to commit and says so.

    Args:
        silent_s: after how long without a word from its writers an attempt counts as given up, at least 60.
        really: False only says which.
        now: seconds since the epoch; compared with the writers' clocks.

    Raises:
        ValueError: `silent_s` is too short.
    """
    if silent_s < LEAST_SILENT_S:
        raise ValueError(f"silent_s is {silent_s:g}, and has to be at least {LEAST_SILENT_S:g}")
    store = PatientStore(store, patience_s=_PATIENCE_S)  # a folder that goes while something is put there is trouble
    leftovers: list[Leftover] = []
    for entry in store.list(f"checkpoints/{name}"):
        if not (entry.endswith("/") and entry[:-1].isascii() and entry[:-1].isdigit()):
            continue
        step = int(entry[:-1])
        found = attempts_of(store, name, step)
        winner = _winner(store, name, step) if found else None
        for one in found.values():
            silent = silent_for_s(store, name, step, one, now())
            is_silent = silent is None or silent > silent_s
            if one.attempt == winner:
                if is_silent and really and (one.leases or one.parts or one.has_fate):
                    tidy(store, name, step, one)  # its writer was killed just after the commit
                continue
            is_bare = not (one.leases or one.parts or one.has_fate)
            if is_bare and not file_below(store, f"{folder_of(name, step)}/{one.attempt}"):
                continue
            removable, why = _judged(store, name, step, one, winner, silent, is_silent=is_silent, really=really)
            if removable and really:
                remove(store, name, step, one)
            leftovers.append(Leftover(step, one.attempt, removable, why))
        if really and winner is None and found and not attempts_of(store, name, step):
            store.delete_folder(folder_of(name, step))  # empty by now; file systems keep such
    return leftovers


def discard(store: Store, name: str, step: int, *, silent_s: float = SILENT_S) -> None:
    """Remove a step, committed or not, so that it can be saved anew. What is being written now is left.

    Also removes what `collect` leaves: an attempt whose writer died in the moment between deciding to commit and doing
    it. Nobody may be about to wake up in that moment.
    """
    store = PatientStore(store, patience_s=_PATIENCE_S)
    remove_step(store, name, step)
    for one in attempts_of(store, name, step).values():
        silent = silent_for_s(store, name, step, one, time.time())
        if silent is None or silent > silent_s:
            decide(store, name, step, one.attempt, "dead", "the step was discarded")
            remove(store, name, step, one)
    if not attempts_of(store, name, step):
        store.delete_folder(folder_of(name, step))


def _judged(
    store: Store, name: str, step: int, one: Found, winner: str | None, silent: float | None, *,
    is_silent: bool, really: bool,
) -> tuple[bool, str]:  # fmt: skip
    if not is_silent:
        return False, "it is being written"
    if winner is not None:
        return True, f"the step is committed by {winner}"
    fate, why = fate_of(store, name, step, one.attempt)
    if fate is None and silent is None:
        return False, "it has no lease, as the copy of a job"
    if fate is None:
        why = f"nothing was heard of its writer for {silent:.0f} s"
        fate, why = decide(store, name, step, one.attempt, "dead", why) if really else ("dead", why)
    if fate == "dead" and really and _winner(store, name, step) == one.attempt:
        # It was committed since we looked, and its seal taken away: there was nothing left to decide.
        tidy(store, name, step, one)
        return False, "it was just committed"
    if fate == "sealed" and silent is not None and silent <= SEALED_SILENT_S:
        return False, "it was about to be committed; it goes after a week, or when the step is discarded"
    return True, why


def _winner(store: Store, name: str, step: int) -> str | None:
    try:
        return read_manifest(store, name, step).attempt
    except ObjectNotFound:
        return None
