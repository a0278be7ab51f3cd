"""Checkpoints copied now, by this process: a folder into a store, or a step from one store to another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from ..checksums import crc32c
from ..crc32c import of_slices
from ..errors import NotAllowedNow, ObjectNotFound, StoreError, Unreadable
from ..flow import unstoppable
from ..parted.cutting import PIECE_BYTES, cut, pieces
from ..sources import source_of, version_of
from ..store import Store
from .manifest import CopiedFile, Manifest, commit_manifest, file_path, manifest_path, read_manifest
from .origins import Committed, Origin, Source

_AT_ONCE = 8

Report = Callable[[int, int], None]
"""Told how many bytes of how many are done; from several threads, one at a time."""


@dataclass(slots=True)
class _Copy:
    """A file on its way."""

    path: str
    size_bytes: int
    origin: Origin
    at: str
    wanted: str = ""
    token: str = ""


def copy_folder(store: Store, source: str, name: str, step: int, *, attempt: str, progress: Report) -> Manifest:
    """Copy a checkpoint's folder into a store, where it becomes visible once all of it is there.

    Args:
        source: a path, or an fsspec URL.
        attempt: tells this try from others; letters and digits.

    Raises:
        NotAllowedNow: there is no folder with files, or it holds what can't be copied; or the step is there already.
        Unreadable: a file is gone, or was written again meanwhile.
        StoreUnavailable, StoreFull: nothing is visible.
    """
    with suppress(ObjectNotFound):
        _refuse(read_manifest(store, name, step))
    fs, base = source_of(source)
    found = cast("dict[str, dict[str, Any]]", fs.find(base, detail=True))
    if not found or not fs.isdir(base):
        raise NotAllowedNow(f"{source} is no folder with files in it.")
    copies: list[_Copy] = []
    for path, about in sorted(found.items()):
        if about["type"] != "file" and not fs.isfile(path):
            raise NotAllowedNow(f"{path} is no regular file, and can't be copied. Remove it.")
        info = about if about["type"] == "file" else cast("dict[str, Any]", fs.info(path))
        relative = path.removeprefix(base).lstrip("/")
        try:
            at = file_path(name, step, attempt, relative)
        except ValueError as error:
            shown = path.encode("utf-8", "backslashreplace").decode()
            raise NotAllowedNow(f"The name of {shown} is none that a store can hold. Rename it.") from error
        copies.append(
            _Copy(relative, int(info["size"]), Source(source, relative, int(info["size"]), version_of(info)), at)
        )
    try:
        files = _copied(store, copies, progress)
        if commit_manifest(store, name, step, attempt=attempt, files=files) != attempt:
            _refuse(read_manifest(store, name, step))
    except BaseException:
        with suppress(StoreError):
            store.delete_folder(f"{manifest_path(name, step).removesuffix('.json')}/{attempt}")
        raise
    return read_manifest(store, name, step)


def copy_step(store: Store, target: Store, name: str, step: int, *, progress: Report) -> bool:
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
    left: list[_Copy] = []
    for file in manifest.files:
        at = file_path(name, step, manifest.attempt, file.path)
        if not _holds(target, at, file):
            origin = Committed(store, name, step, manifest.attempt, file.path)
            left.append(_Copy(file.path, file.size_bytes, origin, at, file.crc32c))
    _copied(target, left, progress)
    if commit_manifest(target, name, step, attempt=manifest.attempt, files=manifest.files) != manifest.attempt:
        _refuse(read_manifest(target, name, step))
    return True


def _refuse(there: Manifest) -> None:
    raise NotAllowedNow(f"Step {there.step} of {there.name} was committed before, by {there.attempt}.")


def _holds(store: Store, at: str, file: CopiedFile) -> bool:
    if store.size(at) != file.size_bytes:
        return False
    flow = unstoppable()
    parts = (store.read_range(at, start, end, flow) for _, start, end in pieces(0, file.size_bytes, PIECE_BYTES))
    return of_slices((crc32c(part), len(part)) for part in parts) == int(file.crc32c, 16)


def _copied(target: Store, copies: Sequence[_Copy], progress: Report) -> list[CopiedFile]:
    """Copy files, several pieces at once, and return what they are. On an error what was begun is dropped."""
    total, done, lock, flow = sum(copy.size_bytes for copy in copies), 0, threading.Lock(), unstoppable()
    parted = target.parted

    def piece(copy: _Copy, index: int, start: int, end: int) -> tuple[int, int, str]:
        nonlocal done
        flow.check()
        tag = ""
        if parted is None:
            crc = _streamed(target, copy)
        else:
            data = copy.origin.read(start, end, flow)
            crc = crc32c(data)
            if copy.token:
                tag = parted.put(copy.at, copy.token, index, start, data, flow)
            else:
                target.replace(copy.at, data)
        with lock:
            done += end - start
            progress(done, total)
        return crc, end - start, tag

    def piece_bytes(copy: _Copy) -> int:
        how = cut(copy.size_bytes, slice_bytes=PIECE_BYTES, parts_most=parted.parts_most if parted else None)
        return how.piece_bytes

    files: list[CopiedFile] = []
    try:
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="copy") as pool:
            running: list[tuple[_Copy, list[Any]]] = []
            for copy in copies:
                cuts = pieces(0, copy.size_bytes, piece_bytes(copy))
                if parted is not None and len(cuts) > 1:
                    copy.token = parted.begin(copy.at)
                running.append((copy, [pool.submit(piece, copy, *each) for each in cuts]))
            try:
                for copy, futures in running:
                    each = [future.result() for future in futures]
                    crc = f"{of_slices((crc, size) for crc, size, _ in each):08x}"
                    if copy.wanted and crc != copy.wanted:
                        raise Unreadable("corrupt", f"{copy.path} has CRC32C {crc}, not {copy.wanted}")
                    if copy.token and parted is not None:
                        parted.finish(copy.at, copy.token, [tag for _, _, tag in each], copy.size_bytes)
                        copy.token = ""
                    files.append(CopiedFile(copy.path, copy.size_bytes, crc))
            except BaseException:
                flow.stop()
                raise
    except BaseException:
        for copy in copies:
            if copy.token and parted is not None:
                with suppress(StoreError):
                    parted.drop(copy.at, copy.token)
        raise
    return files


def _streamed(target: Store, copy: _Copy) -> int:
    """A whole file, where it can't be written in parts; returns its CRC32C."""
    flow, sums = unstoppable(), list[tuple[int, int]]()

    def parts() -> Any:
        for _, start, end in pieces(0, copy.size_bytes, PIECE_BYTES):
            data = copy.origin.read(start, end, flow)
            sums.append((crc32c(data), len(data)))
            yield data

    target.upload(copy.at, parts())
    return of_slices(sums)
