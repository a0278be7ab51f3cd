"""Saving a step: now, or in the background from a copy in memory."""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import NotAllowedNow
from .manifest import Manifest
from .runs import Run, run_at
from .staging import Area
from .state import StateFile, files_of, folder_of_rank
from .tensors import view_of
from .uploading import Progress, Source, of_folder, of_views, write_step

log = logging.getLogger(__name__)

State = Mapping[Any, Any]

_STEP_MOST = 10**12 - 1
_PATIENCE_S, _TIMEOUT_S = 300.0, 1800.0
_NICER = 5


@dataclass(frozen=True, slots=True)
class Saved:
    """A step that was committed.

    Attributes:
        took_s: from the call to the commit.
        staged_s: for how long training stood still for the copy in memory; 0 for a save without one.
    """

    manifest: Manifest
    took_s: float
    staged_s: float = 0.0

    @property
    def step(self) -> int:
        return self.manifest.step

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.manifest.files)


def save(
    source: State | str | Path,
    url: str | Path,
    step: int,
    *,
    rank: int = 0,
    ranks: int = 1,
    token: str = "",
    storage_options: Mapping[str, Any] | None = None,
    patience_s: float = _PATIENCE_S,
    timeout_s: float = _TIMEOUT_S,
    progress: Progress = lambda done, total: None,
) -> Saved:
    """Save a step of a run; it becomes visible when all of it is in the store, and is never overwritten.

    Args:
        source: a folder, or a state: a dict of tensors, arrays, bytes, text, numbers, and dicts, lists and tuples of
            such, as `state_dict()` gives. A folder may be an fsspec URL, and has to be at rest.
        url: of the run: "s3://bucket/runs/7", a folder, or "<store>/checkpoints/<name>" in a store of Holdshort.
        step: from 0 to 10**12 - 1.
        rank, ranks: which of how many processes this is, each with files of its own; all return once all have saved.
        token: with several ranks, the same text for all of them, and a new one for each try at a step.
        storage_options: for the store's file system.
        patience_s: how long to try again while the store does not answer.
        timeout_s: how long to wait for the other ranks.
        progress: told how many bytes of how many of this rank are there; from several threads, one at a time.

    Raises:
        ObjectNotFound: no such folder, or one without files.
        NotAllowedNow: the step is there already; or the source holds what can't be saved.
        ObjectChanged: a file of the folder was written meanwhile.
        AttemptLost: another rank has failed or is late, or the attempt was collected while this process slept.
        StoreUnavailable: the store was away for too long.

    After an error nothing is visible; unless the store went away at the very commit, when `steps()` tells later.
    """
    asked = _asked(url, step, rank, ranks, token, storage_options, patience_s, timeout_s, progress)
    _raise_earlier(asked)
    if isinstance(source, Mapping):
        sources = [_streamed(file) for file in files_of(source, folder=folder_of_rank(rank, ranks))]
    else:
        sources = of_folder(os.fspath(source))
    return _save(asked, sources)


class Saving:
    """A save that goes on in the background. The process ends only after it has ended.

    Whoever does not ask for its result learns of its failure all the same: it is logged, and raised by the next save
    of the same run.
    """

    def __init__(self, asked: _Asked) -> None:
        self._asked = asked
        self._staged, self._ended = threading.Event(), threading.Event()
        self._saved: Saved | None = None
        self._error: BaseException | None = None
        self.is_told = False

    def __repr__(self) -> str:
        how = "under way" if not self.done() else "failed" if self._error else "committed"
        return f"<Saving of step {self._asked.step} of {self._asked.run.name}: {how}>"

    @property
    def step(self) -> int:
        return self._asked.step

    @property
    def error(self) -> BaseException | None:
        """Why it failed; None while it is under way, or if it did not."""
        return self._error

    def done(self) -> bool:
        """Whether it has ended, either way."""
        return self._ended.is_set()

    def wait_staged(self, timeout: float | None = None) -> None:
        """Wait until the state was copied, so that it may change again.

        Raises TimeoutError if it wasn't within `timeout` seconds, and what went wrong if it never will be.
        """
        if not self._staged.wait(timeout):
            raise TimeoutError(f"The state was not copied within {timeout} s.")
        if self._error is not None:
            self.is_told = True
            raise self._error

    def result(self, timeout: float | None = None) -> Saved:
        """Wait for the commit.

        Raises TimeoutError if it was not within `timeout` seconds (it goes on), and all that `save` does.
        """
        if not self._ended.wait(timeout):
            raise TimeoutError(f"Step {self.step} was not saved within {timeout} s; it goes on.")
        if self._error is not None:
            self.is_told = True
            raise self._error
        assert self._saved is not None
        return self._saved

    def _end(self, saved: Saved | None, error: BaseException | None) -> None:
        self._saved, self._error = saved, error
        self._staged.set()
        self._ended.set()


def save_async(
    source: State | str | Path,
    url: str | Path,
    step: int,
    *,
    rank: int = 0,
    ranks: int = 1,
    token: str = "",
    storage_options: Mapping[str, Any] | None = None,
    patience_s: float = _PATIENCE_S,
    timeout_s: float = _TIMEOUT_S,
    if_busy: Literal["wait", "refuse"] = "wait",
    defer_copy: bool = False,
    progress: Progress = lambda done, total: None,
) -> Saving:
    """Save a step in the background. Returns once the state is copied to memory of its own, and may change again.

    That memory is as large as the largest state so far, and used again by each save, so the first takes longer. There
    is one such copy in a process at a time.

    Args:
        if_busy: when an earlier save is still being uploaded from that memory: "wait" for it, or "refuse".
        defer_copy: return at once and copy in the background; the state must not change before `wait_staged()` returns.
        source, url and the others: see `save`. A folder is not copied, and has to rest until the end.

    Raises:
        NotAllowedNow: an earlier save is under way, and `if_busy` is "refuse"; or the source holds what can't be saved.
        All that an earlier save of this run in the background has raised, if nobody was told; nothing is begun then.
        What else goes wrong is raised by the result.
    """
    asked = _asked(url, step, rank, ranks, token, storage_options, patience_s, timeout_s, progress)
    _raise_earlier(asked)
    if not isinstance(source, Mapping):
        return _begin(asked, lambda saving: _save_folder(saving, asked, os.fspath(source)))
    files = files_of(source, folder=folder_of_rank(rank, ranks))
    if not _area_free.acquire(blocking=if_busy == "wait"):
        raise NotAllowedNow(
            f"Step {step} was not saved: an earlier one is still being uploaded. Wait for its result(), save less "
            f'often, or leave if_busy at "wait".'
        )
    neighbours = _ranks_here(ranks)
    copied: list[memoryview] = []
    copied_s = 0.0

    def copy() -> None:
        nonlocal copied_s
        begin = time.monotonic()
        copied[:] = _area.stage(files, neighbours=neighbours)
        copied_s = time.monotonic() - begin

    def run(saving: Saving) -> Saved:
        try:
            if defer_copy:
                copy()
            _stand_back(saving)
            if neighbours > 1:
                # The slowest of them is what training waits for: they get the cores for as long again as this rank's
                # copy took, since the uploads of those that had one to themselves would take it from the others.
                time.sleep(copied_s)
            sources = [_staged(file.path, view) for file, view in zip(files, copied, strict=True)]
            return _save(asked, sources, staged_s=copied_s)
        finally:
            copied.clear()
            _area_free.release()

    try:
        if not defer_copy:
            copy()
    except BaseException:
        _area_free.release()
        raise
    return _begin(asked, run)


# -- inside ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    run: Run
    step: int
    rank: int
    ranks: int
    attempt: str
    patience_s: float
    timeout_s: float
    progress: Progress
    called_s: float  # on the monotonic clock


def _asked(
    url: str | Path, step: int, rank: int, ranks: int, token: str, storage_options: Mapping[str, Any] | None,
    patience_s: float, timeout_s: float, progress: Progress,
) -> _Asked:  # fmt: skip
    called_s = time.monotonic()
    if type(step) is not int or not 0 <= step <= _STEP_MOST:
        raise ValueError(f"step is {step!r}; it has to be a whole number from 0 to {_STEP_MOST}")
    if not 0 <= rank < ranks <= 10**5:
        raise ValueError(f"rank is {rank} of {ranks} ranks; it has to be from 0 to one below their number")
    if ranks > 1 and not token:
        raise ValueError(
            "several ranks need a token: the same text for all of them, and a new one for each try at a step. Rank 0 "
            "may make one and send it to the others, e.g. by torch.distributed.broadcast_object_list"
        )
    attempt = f"r{hashlib.sha256(token.encode()).hexdigest()[:24]}" if ranks > 1 else ""
    run = run_at(url, storage_options)
    return _Asked(run, step, rank, ranks, attempt, patience_s, timeout_s, progress, called_s)


def _save(asked: _Asked, sources: Sequence[Source], staged_s: float = 0.0) -> Saved:
    run = asked.run
    manifest = write_step(
        run.store, run.name, asked.step, sources, attempt=asked.attempt, rank=asked.rank, ranks=asked.ranks,
        patience_s=asked.patience_s, timeout_s=asked.timeout_s, progress=asked.progress,
    )  # fmt: skip
    return Saved(manifest, time.monotonic() - asked.called_s, staged_s)


def _save_folder(saving: Saving, asked: _Asked, folder: str) -> Saved:
    sources = of_folder(folder)
    _stand_back(saving)
    return _save(asked, sources)


def _ranks_here(ranks: int) -> int:
    """How many of the ranks are on this machine, as far as torchrun tells; otherwise all might be."""
    said = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, min(ranks, int(said) if said.isdigit() else ranks))


def _streamed(file: StateFile) -> Source:
    def views() -> Iterator[memoryview]:
        yield memoryview(file.head)
        yield from map(view_of, file.tensors)  # one at a time: those of a device are copied

    return of_views(file.path, file.size_bytes, views)


def _staged(path: str, view: memoryview) -> Source:
    return of_views(path, view.nbytes, lambda: [view])


# One copy at a time; it is given to the next save once its upload has ended.
_area = Area()
_area_free = threading.Lock()
_under_way: list[Saving] = []
_unsaid: list[Saving] = []
_lock = threading.Lock()
_watching = False


def _begin(asked: _Asked, work: Callable[[Saving], Saved]) -> Saving:
    saving = Saving(asked)

    def run() -> None:
        saved, failure = None, None
        try:
            saved = work(saving)
        except BaseException as error:  # noqa: BLE001 - it is told by the result and the next save
            failure = error
            log.error("Step %s of %s was not saved: %s", asked.step, asked.run.name, error)  # noqa: TRY400
        with _lock:
            _under_way.remove(saving)
            if failure is not None:
                _unsaid.append(saving)
        saving._end(saved, failure)  # pyright: ignore[reportPrivateUsage]

    _watch_the_exit()
    with _lock:
        _under_way.append(saving)
    threading.Thread(target=run, name=f"checkpoint {asked.step}").start()
    return saving


def _stand_back(saving: Saving) -> None:
    """Training goes on, and first: this thread, and those that it starts, get a third of its share of a core."""
    saving._staged.set()  # pyright: ignore[reportPrivateUsage]
    mine = threading.get_native_id()
    with suppress(OSError):  # only a wish
        os.setpriority(os.PRIO_PROCESS, mine, os.getpriority(os.PRIO_PROCESS, mine) + _NICER)


def _raise_earlier(asked: _Asked) -> None:
    """Raise what an earlier save of the run failed with, if nobody was told."""
    with _lock:
        _unsaid[:] = [saving for saving in _unsaid if not saving.is_told]
        mine = [saving for saving in _unsaid if saving._asked.run.url == asked.run.url]  # pyright: ignore[reportPrivateUsage]
        for saving in mine:
            saving.is_told = True
    for saving in mine:
        error = saving.error
        assert error is not None
        error.add_note(f"So ended the save of step {saving.step} in the background; step {asked.step} was not begun.")
        raise error


def _watch_the_exit() -> None:
    global _watching
    with _lock:
        if _watching:
            return
        _watching = True
    atexit.register(_tell_at_exit)
    os.register_at_fork(after_in_child=_forget)
    # The interpreter stops the threads of pools before it waits for others, and clients of stores need theirs.
    early: Callable[[Callable[[], None]], None] | None = getattr(threading, "_register_atexit", None)
    if early is not None:
        early(_wait_at_exit)


def _forget() -> None:
    """In a forked child: the parent's saves, and locks that its threads hold, are not ours."""
    global _area_free, _lock
    _area_free, _lock = threading.Lock(), threading.Lock()
    _under_way.clear()
    _unsaid.clear()


def _wait_at_exit() -> None:
    with _lock:
        waiting = list(_under_way)
    for saving in waiting:
        log.info("The exit waits until %r is committed.", saving)
        saving._ended.wait()  # pyright: ignore[reportPrivateUsage]


def _tell_at_exit() -> None:
    with _lock:
        left = [saving for saving in _unsaid if not saving.is_told]
    for saving in left:
        log.error("Nobody asked for the result of %r, so here it is: %s", saving, saving.error)
