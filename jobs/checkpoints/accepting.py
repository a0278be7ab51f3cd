"""The rows of a checkpoint job: what is to be done, as it stands when the job is submitted.

A row is a slice of a file, or, to prune, a step. Its body says all that a worker needs; what is the same for all rows
is in the job's record.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import orjson

from ...storage.checkpoints.manifest import Manifest, file_path, manifest_path, read_manifest, steps
from ...storage.errors import Corrupt, HoldshortError, NotAllowedNow, ObjectNotFound, RefusedJob
from ...storage.parted.cutting import Cut, cut, slices
from ...storage.parted.protocol import Parted
from ...storage.sources import source_of, version_of
from ...storage.store import Store
from ..input import InputRow
from ..spec import CheckpointJob
from .places import Places
from .restore_folder import check_free, inside

_FOLDER_PARTS = 2**31
STEPS = "//"
"""Between a file's path and the number of its slice, in a custom_id: no path has it."""


def rows_of(store: Store, job: CheckpointJob, places: Places) -> Iterator[InputRow]:
    """The rows of a job. Raises RefusedJob, ObjectNotFound, StoreUnavailable and whatever opens no other store."""
    return _saved(store, job) if job.action == "save" else _of_steps(store, job, places)


def file_of(custom_id: str) -> str:
    """The file of a row, by the row's name."""
    return custom_id.partition(STEPS)[0]


# -- save ------------------------------------------------------------------------------------------------


def _saved(store: Store, job: CheckpointJob) -> Iterator[InputRow]:
    """Slices of each file of a folder, with the size and the version that it has now."""
    source = cast("str", job.source)
    fs, base = source_of(source)
    found = cast("dict[str, dict[str, Any]]", fs.find(base, detail=True))
    if not found or not fs.isdir(base):
        raise RefusedJob(f"{source} is no folder with files in it. Nothing was submitted.")
    most = _parts_most(store.parted)
    for file, path in enumerate(sorted(found)):
        relative = path.removeprefix(base).lstrip("/")
        info = found[path]
        if info["type"] != "file":
            if not fs.isfile(path):
                raise RefusedJob(f"{path} is no regular file, and can't be copied. Remove it. Nothing was submitted.")
            info = cast("dict[str, Any]", fs.info(path))  # of what a link leads to
        _check_name(path, relative)
        size = int(info["size"])
        about = {"path": relative, "version": version_of(info)}
        yield from _slices(relative, file, size, cut(size, slice_bytes=job.slice_bytes, parts_most=most), about, path)


def _check_name(path: str, relative: str) -> None:
    try:
        relative.encode()
    except UnicodeEncodeError as error:
        shown = path.encode("utf-8", "backslashreplace").decode()
        raise RefusedJob(f"The name of {shown} is not UTF-8. Rename it. Nothing was submitted.") from error
    try:
        file_path("x", 0, "x", relative)
        is_plain = STEPS not in relative
    except ValueError:
        is_plain = False
    if not is_plain:
        raise RefusedJob(f"{path} has an empty name in its path, which a store can't hold. Nothing was submitted.")


# -- the others, which begin with committed steps --------------------------------------------------------


def _of_steps(store: Store, job: CheckpointJob, places: Places) -> Iterator[InputRow]:
    wanted = _steps(store, job)
    if job.action == "prune":
        for step in wanted:
            yield _row(str(step), {"step": step, "attempt": _manifest(store, job, step).attempt}, 0, f"step {step}")
        return
    target = _target(store, job, places)
    if job.action == "restore":
        _check_restore(store, job)
    most = _parts_most(target.parted) if target is not None else _FOLDER_PARTS
    file = 0
    for step in wanted:
        manifest = _manifest(store, job, step)
        if target is not None and _is_there(target, manifest):
            yield _row(str(step), {"step": step, "there": True}, 0, f"step {step}")
            continue
        for each in manifest.files:
            try:
                inside(each.path)
            except Corrupt as error:
                raise RefusedJob(f"step: {error}. Nothing was submitted.") from error
            about = {"step": step, "attempt": manifest.attempt, "path": each.path, "crc32c": each.crc32c}
            how = cut(each.size_bytes, slice_bytes=job.slice_bytes, parts_most=most)
            yield from _slices(f"{step}/{each.path}", file, each.size_bytes, how, about, f"step {step}, {each.path}")
            file += 1
        if not manifest.files:
            raise RefusedJob(f"step: step {step} of {job.name} has no files. Nothing was submitted.")


def _check_restore(store: Store, job: CheckpointJob) -> None:
    if job.to is None:
        if store.located(manifest_path(job.name, 0)) is None:
            raise RefusedJob(
                f"to: it is left out, to warm the cache of the workers' node; but of {store.url}, which lies on a "
                f"machine's own disk, nothing is cached. Name a folder. Nothing was submitted."
            )
        return
    try:
        check_free(Path(job.to))
    except NotAllowedNow as error:
        raise RefusedJob(f"to: {error} Nothing was submitted.") from error


def _steps(store: Store, job: CheckpointJob) -> list[int]:
    committed = steps(store, job.name)
    wanted = job.step or {"verify": "all", "prune": "all"}.get(job.action, "latest")
    if job.step == 0:
        wanted = 0
    if isinstance(wanted, int):
        if wanted not in committed:
            raise ObjectNotFound(
                f"step: the store {store.url} holds no step {wanted} of {job.name}; "
                f"`holdshort checkpoint list {job.name}` lists them. Nothing was submitted."
            )
        return [wanted]
    if not committed:
        raise ObjectNotFound(f"name: the store {store.url} holds no checkpoint of {job.name}. Nothing was submitted.")
    if wanted == "all":
        return committed
    return [_newest_readable(store, job.name, committed) if job.action == "restore" else committed[-1]]


def _newest_readable(store: Store, name: str, committed: list[int]) -> int:
    """The newest step whose manifest can be read; what is passed over is told at the end of the job."""
    why: list[str] = []
    for step in reversed(committed):
        try:
            read_manifest(store, name, step)
        except (Corrupt, ObjectNotFound) as error:  # it may have been pruned a moment ago
            why.append(f"step {step} is not whole ({error})")
        else:
            return step
    raise RefusedJob(f"step: no step of {name} is whole: {'; '.join(why)}. Nothing was submitted.")


def _manifest(store: Store, job: CheckpointJob, step: int) -> Manifest:
    try:
        return read_manifest(store, job.name, step)
    except Corrupt as error:
        raise RefusedJob(f"step: {error}. Nothing was submitted.") from error


def _target(store: Store, job: CheckpointJob, places: Places) -> Store | None:
    if job.action != "replicate":
        return None
    try:
        target = places.store(cast("str", job.to))
    except HoldshortError as error:
        error.add_note("Nothing was submitted.")
        raise
    if target.url == store.url:
        raise RefusedJob(f"to: {target.url} is the store that the checkpoint is in. Nothing was submitted.")
    return target


def _is_there(target: Store, manifest: Manifest) -> bool:
    try:
        found = read_manifest(target, manifest.name, manifest.step)
    except ObjectNotFound:
        return False
    if found.files == manifest.files:
        return True
    raise RefusedJob(
        f"to: {target.url} has a step {manifest.step} of {manifest.name} already, and its files are others. "
        f"Replicate to another store, or remove it there. Nothing was submitted."
    )


# -- shared ----------------------------------------------------------------------------------------------


def _parts_most(parted: Parted | None) -> int | None:
    return None if parted is None else parted.parts_most


def _slices(name: str, file: int, size: int, how: Cut, about: dict[str, Any], where: str) -> Iterator[InputRow]:
    is_one = size <= how.slice_bytes
    for number, (first, length) in enumerate(slices(size, how.slice_bytes)):
        body = {
            **about, "file": file, "file_bytes": size, "first": first, "size_bytes": length,
            "piece_bytes": how.piece_bytes,
        }  # fmt: skip
        yield _row(name if is_one else f"{name}{STEPS}{number}", body, length, where)


def _row(custom_id: str, body: dict[str, Any], size_bytes: int, where: str) -> InputRow:
    return InputRow(custom_id, orjson.dumps({"custom_id": custom_id, "body": body}), where, size_bytes)
