"""Checkpoints copied now, by this process: a folder into a store, or a step from one store to another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from ..checksums import Sum
from ..errors import NotAllowedNow, ObjectNotFound, Unreadable
from ..store import Store
from .manifest import CopiedFile, Manifest, commit_manifest, file_path, read_manifest, verify
from .uploading import Progress, Source, of_folder, upload, write_step


def copy_folder(store: Store, source: str, name: str, step: int, *, attempt: str, progress: Progress) -> Manifest:
    """Copy a checkpoint's folder into a store, where it becomes visible once all of it is there.

    Args:
        source: a path, or an fsspec URL.
        attempt: tells this try from others; letters and digits.

    Raises:
        NotAllowedNow: there is no folder with files, or it holds what can't be copied; or the step is there already.
        ObjectChanged: a file was written again meanwhile.
        StoreUnavailable, StoreFull: nothing is visible.
    """
    try:
        sources = of_folder(source)
    except ObjectNotFound as error:
        raise NotAllowedNow(str(error)) from error
    return write_step(store, name, step, sources, attempt=attempt, progress=progress)


def copy_step(store: Store, target: Store, name: str, step: int, *, progress: Progress) -> bool:
    """Copy a committed step to another store, where it becomes visible once all of it is there and verified.

    Files that an earlier try left there, and whose CRC32C is right, are not copied again.

    Returns:
        False if the step was there already, with the same files.

    Raises:
        ObjectNotFound: no such step.
        NotAllowedNow: the target has that step with other files.
        Unreadable: a file is missing, or not what the manifest says; nothing is visible in the target.
    """
    manifest = read_manifest(store, name, step)
    with suppress(ObjectNotFound):
        there = read_manifest(target, name, step)
        if there.files == manifest.files:
            return False
        _refuse(there)
    left = [_of_step(store, manifest, file) for file, problem in verify(target, manifest) if problem]
    upload(target, partial(file_path, name, step, manifest.attempt), left, progress=progress)
    if commit_manifest(target, name, step, attempt=manifest.attempt, files=manifest.files) != manifest.attempt:
        _refuse(read_manifest(target, name, step))
    return True


def _refuse(there: Manifest) -> None:
    raise NotAllowedNow(f"Step {there.step} of {there.name} was committed before, by {there.attempt}.")


def _of_step(store: Store, manifest: Manifest, file: CopiedFile) -> Source:
    """A file of a committed step, which ends by an error if it is not what the manifest says."""

    def parts() -> Iterator[bytes]:
        found, named = Sum(), f"{file.path} of step {manifest.step}"
        try:
            for part in store.read_parts(file_path(manifest.name, manifest.step, manifest.attempt, file.path)):
                found.add(part)
                yield part
        except ObjectNotFound as error:
            raise Unreadable("missing", f"{named} is missing") from error
        if found.crc32c != file.crc32c:
            raise Unreadable("corrupt", f"{named} has CRC32C {found.crc32c}, not {file.crc32c}")

    return Source(file.path, file.size_bytes, parts)
