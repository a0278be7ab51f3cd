"""A run's checkpoints, by its URL: what is there, what is whole, back out of it, and what is to go."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

from ..errors import Corrupt, NotAllowedNow, ObjectNotFound
from ..store import Store
from . import collecting, restoring, warming
from .attempts import SILENT_S
from .collecting import Leftover
from .manifest import Manifest, read_manifest
from .manifest import steps as steps_of
from .manifest import verify as verify_files
from .restoring import Restored, read_file
from .runs import Run, run_at
from .state import Reference, begins_of, folder_of_rank, state_from
from .tensors import tensor_from
from .warming import Warmed

log = logging.getLogger(__name__)

Step = int | Literal["latest"]
Framework = Literal["torch", "numpy"]
Progress = Callable[[int, int], None]

_FILES_AT_ONCE = 8
_STATE = "state.json"


@dataclass(frozen=True, slots=True)
class RestoredState:
    """A state that was restored.

    Attributes:
        state: what was given to `save`. Its tensors lie in memory that they share, and may be changed.
        passed_over: newer steps that are not whole, each with what is wrong.
    """

    manifest: Manifest
    state: Any
    passed_over: tuple[tuple[int, str], ...]

    @property
    def step(self) -> int:
        return self.manifest.step


@dataclass(frozen=True, slots=True)
class Verified:
    """What a look at every byte of a step has shown.

    Attributes:
        problems: what is wrong, by file; empty for a step that is whole.
    """

    manifest: Manifest
    problems: Mapping[str, str]

    @property
    def is_whole(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed, or would be.

    Attributes:
        steps: committed steps.
        attempts: others that can't become visible any more.
        left: attempts that were left, each with why.
    """

    steps: tuple[int, ...]
    attempts: tuple[Leftover, ...]
    left: tuple[Leftover, ...]


def steps(url: str | Path, *, storage_options: Mapping[str, Any] | None = None) -> list[int]:
    """The committed steps of a run, ascending."""
    run = run_at(url, storage_options)
    return steps_of(run.store, run.name)


def manifest_of(
    url: str | Path, step: Step = "latest", *, storage_options: Mapping[str, Any] | None = None
) -> Manifest:
    """A committed step's manifest: its files, with sizes and checksums.

    Raises:
        ObjectNotFound: no such step, or none at all.
        Corrupt: the manifest can't be read, or a newer version wrote it.
    """
    run = run_at(url, storage_options)
    return read_manifest(run.store, run.name, _number(run, step))


def verify(url: str | Path, step: Step = "latest", *, storage_options: Mapping[str, Any] | None = None) -> Verified:
    """Read every file of a step, and compare sizes and CRC32C with its manifest. Raises as `manifest_of` does."""
    run = run_at(url, storage_options)
    manifest = read_manifest(run.store, run.name, _number(run, step))
    found = verify_files(run.store, manifest)
    return Verified(manifest, {file.path: problem for file, problem in found if problem})


def newest_whole(url: str | Path, *, storage_options: Mapping[str, Any] | None = None) -> Manifest:
    """The newest step of which every byte is right: all of it is read. What is passed over is logged.

    Raises:
        ObjectNotFound: there is no step.
        Corrupt: none is whole.
    """
    run = run_at(url, storage_options)
    found = sorted(steps_of(run.store, run.name), reverse=True)
    if not found:
        raise _none(run)
    wrong: list[str] = []
    for step in found:
        try:
            manifest = read_manifest(run.store, run.name, step)
        except (Corrupt, ObjectNotFound) as error:
            why = str(error)
        else:
            problems = [f"{file.path} {problem}" for file, problem in verify_files(run.store, manifest) if problem]
            if not problems:
                return manifest
            why = "; ".join(problems)
        log.warning("Step %s of %s is not whole, and passed over: %s", step, run.name, why)
        wrong.append(f"step {step}: {why}")
    raise Corrupt(f"No step of {run.name} in {run.url} is whole. {'; '.join(wrong)}")


@overload
def restore(
    url: str | Path, into: None = None, step: Step = "latest", *, rank: int = 0, ranks: int = 1,
    framework: Framework | None = None, storage_options: Mapping[str, Any] | None = None,
    progress: Progress = lambda done, total: None,
) -> RestoredState: ...  # fmt: skip
@overload
def restore(
    url: str | Path, into: str | Path, step: Step = "latest", *, rank: int = 0, ranks: int = 1,
    framework: Framework | None = None, storage_options: Mapping[str, Any] | None = None,
    progress: Progress = lambda done, total: None,
) -> Restored: ...  # fmt: skip
def restore(
    url: str | Path,
    into: str | Path | None = None,
    step: Step = "latest",
    *,
    rank: int = 0,
    ranks: int = 1,
    framework: Framework | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress = lambda done, total: None,
) -> RestoredState | Restored:
    """A step back: as the state that was saved, or into a folder. Every byte is checked against its CRC32C.

    Args:
        url: of the run, as for `save`.
        into: a folder that does not exist yet, or is empty; it appears once all is there. None: give back the state.
        step: which one; "latest": the newest that is whole, and what was passed over is said.
        rank, ranks: whose state, if several ranks have saved theirs. A folder gets the files of all.
        framework: make "torch" tensors or "numpy" arrays of all; None: what was saved.
        progress: told how many bytes of how many are there; from several threads, one at a time.

    Raises:
        ObjectNotFound: no such step, or no step at all.
        Corrupt: the step is not whole, or none is.
        NotAllowedNow: the folder holds something; or a state is asked for and the step holds none.
        StoreFull: no space left for the folder.
        MissingExtra: the state holds tensors of what is not installed.
    """
    run = run_at(url, storage_options)
    if into is not None:
        number = None if step == "latest" else step
        return restoring.restore(run.store, run.name, Path(into), step=number, progress=progress)
    wanted = sorted(steps_of(run.store, run.name), reverse=True) if step == "latest" else [step]
    if not wanted:
        raise _none(run)
    passed_over: list[tuple[int, str]] = []
    for number in wanted:
        try:
            manifest = read_manifest(run.store, run.name, number)
            state = _state(run.store, manifest, rank, ranks, framework, progress)
            return RestoredState(manifest, state, tuple(passed_over))
        except Corrupt as error:
            if step != "latest":
                raise
            passed_over.append((number, str(error)))
        except ObjectNotFound:
            if step != "latest":
                raise
            passed_over.append((number, "it was removed just now"))
    tried = "; ".join(f"step {number}: {why}" for number, why in passed_over)
    raise Corrupt(f"No step of {run.name} in {run.url} is whole. {tried}")


def warm(
    url: str | Path, step: Step = "latest", *, storage_options: Mapping[str, Any] | None = None,
    progress: Progress = lambda done, total: None,
) -> Warmed:  # fmt: skip
    """Bring a step into this node's cache, each file checked against its CRC32C, so that later reads find it there.

    Those are `restore` (which then asks the store for manifests only), and `serving::` and `load_safetensors` of the
    files, which ask what an object is and fetch nothing of it. They have to reach the store by the same options.

    Args:
        url: of the run, as for `save`; not of this machine's own disk.
        step: which one; "latest": the newest that is whole, and what was passed over is said.
        progress: told how many bytes of how many are there; from several threads, one at a time.

    Raises:
        NotAllowedNow: this node has no cache for the store, or the step has no room in it; nothing was fetched.
        ObjectNotFound: no such step, or no step at all.
        Corrupt: the step is not whole, or none is.
    """
    run = run_at(url, storage_options)
    return warming.warm(run.store, run.name, step=None if step == "latest" else step, progress=progress)


def prune(
    url: str | Path, keep_last: int, keep_every: int | None = None, *, silent_s: float = SILENT_S, really: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> Pruned:  # fmt: skip
    """Remove all steps but the newest ones and each multiple of `keep_every`, and what dead attempts left.

    Safe while others write and read: a reader sees a whole step or none, and no attempt is touched whose writer was
    heard of within `silent_s`.

    Args:
        really: False only says what would go.

    Raises:
        ValueError: a number is too small.
    """
    run = run_at(url, storage_options)
    gone = restoring.prune(run.store, run.name, keep_last=keep_last, keep_every=keep_every, really=really)
    leftovers = collecting.collect(run.store, run.name, silent_s=silent_s, really=really)
    removed = tuple(one for one in leftovers if one.removed)
    return Pruned(tuple(gone), removed, tuple(one for one in leftovers if not one.removed))


def collect(
    url: str | Path, *, silent_s: float = SILENT_S, really: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> Pruned:  # fmt: skip
    """Remove what dead attempts left, and no step: see `prune`."""
    run = run_at(url, storage_options)
    leftovers = collecting.collect(run.store, run.name, silent_s=silent_s, really=really)
    removed = tuple(one for one in leftovers if one.removed)
    return Pruned((), removed, tuple(one for one in leftovers if not one.removed))


def discard(url: str | Path, step: int, *, storage_options: Mapping[str, Any] | None = None) -> None:
    """Remove one step, so that it can be saved anew; one that is not there is no error.

    After a restore has passed over a step that is not whole, training comes to that step again, and a step is never
    overwritten.
    """
    run = run_at(url, storage_options)
    collecting.discard(run.store, run.name, step)


# -- inside ----------------------------------------------------------------------------------------------


def _number(run: Run, step: Step) -> int:
    if step != "latest":
        return step
    found = steps_of(run.store, run.name)
    if not found:
        raise _none(run)
    return found[-1]


def _none(run: Run) -> ObjectNotFound:
    return ObjectNotFound(f"No step of {run.name} is committed in {run.url}.")


def _state(
    store: Store, manifest: Manifest, rank: int, ranks: int, framework: Framework | None, progress: Progress
) -> Any:
    folder = folder_of_rank(rank, ranks)
    files = {file.path: file for file in manifest.files}
    about = files.get(folder + _STATE)
    if about is None:
        have = sorted(path.removesuffix(_STATE) for path in files if path.rpartition("/")[2] == _STATE)
        cure = f"It has states in {', '.join(have)}: say whose, by rank and ranks." if any(have) else (
            "It was saved from a folder: say into which folder to restore it."
        )  # fmt: skip
        raise NotAllowedNow(f"Step {manifest.step} of {manifest.name} has no {folder}{_STATE}. {cure}")
    wanted = [file for file in manifest.files if file.path.rpartition("/")[0] == folder.rstrip("/")]
    total, done = sum(file.size_bytes for file in wanted), 0
    memories: dict[str, memoryview] = {}

    def came(amount: int) -> None:
        nonlocal done
        done += amount
        progress(done, total)

    with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="restore") as pool:
        reading = [(file.path, pool.submit(read_file, store, manifest, file)) for file in wanted]
        for path, read in reading:
            memory = memories[path] = read.result()
            came(memory.nbytes)
    begins: dict[str, dict[str, tuple[int, int]]] = {}

    def tensor(named: Reference) -> Any:
        path = folder + named.file
        if path not in memories:
            raise Corrupt(f"{about.path} names {named.file}, which is not in the manifest")
        if path not in begins:
            begins[path] = begins_of(bytes(memories[path][: 8 + int.from_bytes(memories[path][:8], "little")]), path)
        try:
            start, end = begins[path][named.name]
        except KeyError as error:
            raise Corrupt(f"{path} has no tensor {named.name!r}") from error
        return tensor_from(memories[path][start:end], named.kind, named.dtype, named.shape, framework)

    return state_from(bytes(memories[about.path]), tensor)
