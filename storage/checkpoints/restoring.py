"""Checkpoints back out of a store, and old ones removed from it."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..checksums import Sum
from ..errors import Corrupt, NotAllowedNow, ObjectNotFound, StoreFull
from ..store import Store
from .aside import beside
from .attempts import attempts_of, folder_of, remove
from .manifest import CopiedFile, Manifest, file_path, manifest_path, read_manifest, steps
from .node_cache import cached_parts

_FILES_AT_ONCE = 8
_PART_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored.

    Attributes:
        passed_over: newer steps that are not whole, each with what is wrong.
    """

    manifest: Manifest
    folder: Path
    passed_over: tuple[tuple[int, str], ...]


def restore(
    store: Store,
    name: str,
    folder: Path,
    *,
    step: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Restored:
    """Copy a checkpoint into a folder, which appears once every file is there and has the manifest's CRC32C.

    Args:
        folder: must not exist, or be empty.
        step: which one; None: the newest that is whole.
        progress: told how many bytes of how many are there; from several threads, one at a time.

    Raises:
        NotAllowedNow: the folder holds something.
        ObjectNotFound: no such step, or no step at all.
        Corrupt: the step is not whole, or none is; nothing is left in the folder.
        StoreFull: no space left for it.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise NotAllowedNow(f"{folder} is there already and not empty. Restore into a new folder, or remove it first.")
    wanted = [step] if step is not None else sorted(steps(store, name), reverse=True)
    if not wanted:
        raise ObjectNotFound(f"The store {store.url} holds no checkpoint of {name}.")
    passed_over: list[tuple[int, str]] = []
    for number in wanted:
        try:
            manifest = read_manifest(store, name, number)
            _restore(store, manifest, folder, progress)
            return Restored(manifest, folder, tuple(passed_over))
        except Corrupt as error:
            if step is not None:
                raise
            passed_over.append((number, str(error)))
    tried = "; ".join(f"step {number}: {why}" for number, why in passed_over)
    raise Corrupt(f"No step of {name} in {store.url} is whole. {tried}")


def kept(found: Sequence[int], *, keep_last: int, keep_every: int | None = None) -> list[int]:
    """Of these steps, those to keep: the newest ones, and each that is a multiple of `keep_every`. Pure."""
    newest = sorted(found)[-keep_last:] if keep_last > 0 else []
    return [step for step in sorted(found) if step in newest or (keep_every and step % keep_every == 0)]


def prune(store: Store, name: str, *, keep_last: int, keep_every: int | None = None, really: bool = True) -> list[int]:
    """Remove steps that are not to be kept; returns them. A reader never sees half of one.

    Args:
        really: False only says which.

    Raises:
        ValueError: `keep_last` is below 1, so that nothing might be left, or `keep_every` is.
    """
    if keep_last < 1 or (keep_every is not None and keep_every < 1):
        raise ValueError("keep_last and keep_every have to be at least 1")
    found = steps(store, name)
    stay = set(kept(found, keep_last=keep_last, keep_every=keep_every))
    gone = [step for step in found if step not in stay]
    for step in gone if really else ():
        remove_step(store, name, step)
    return gone


def remove_step(store: Store, name: str, step: int) -> None:
    """Remove a committed step. Of attempts at it that are being written, or were until lately, nothing is removed."""
    store.delete(manifest_path(name, step))  # from now on nobody finds it
    others = [found for found in attempts_of(store, name, step).values() if found.leases or found.has_fate]
    if not others:
        store.delete_folder(folder_of(name, step))
        return
    mine = {found.attempt for found in others}
    for found in attempts_of(store, name, step).values():
        if found.attempt not in mine:
            remove(store, name, step, found)


def read_file(store: Store, manifest: Manifest, file: CopiedFile) -> memoryview:
    """A file of a checkpoint, in memory of its own. Raises Corrupt if it is not what the manifest says."""
    memory = memoryview(mmap.mmap(-1, max(1, file.size_bytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    found = Sum()
    for parts in _ways(store, manifest, file):
        found = Sum()
        for part in parts:
            end = found.size_bytes + len(part)
            if end <= file.size_bytes:
                memory[found.size_bytes : end] = part
            found.add(part)
        if (found.size_bytes, found.crc32c) == (file.size_bytes, file.crc32c):
            return memory[: file.size_bytes]
    raise _differs(file, found)


def _ways(store: Store, manifest: Manifest, file: CopiedFile) -> Iterator[Iterable[bytes]]:
    """A file's bytes from this node's cache, if all of them are there; then, should that be wrong, from the store."""
    at = file_path(manifest.name, manifest.step, manifest.attempt, file.path)
    cached = cached_parts(store, manifest.name, at, file.size_bytes, _PART_BYTES)
    if cached is not None:
        yield cached
    yield _stored_parts(store, at, file)


def _stored_parts(store: Store, at: str, file: CopiedFile) -> Iterator[bytes]:
    try:
        yield from store.read_parts(at, _PART_BYTES)
    except ObjectNotFound as error:
        raise Corrupt(f"{file.path} is missing in the store") from error


def _differs(file: CopiedFile, found: Sum) -> Corrupt:
    return Corrupt(
        f"{file.path} has {found.size_bytes} bytes with CRC32C {found.crc32c}, not {file.size_bytes} with {file.crc32c}"
    )


def _restore(store: Store, manifest: Manifest, folder: Path, progress: Callable[[int, int], None]) -> None:
    total = sum(file.size_bytes for file in manifest.files)
    targets = {file: _target(file, manifest) for file in manifest.files}
    lock, stop, done = threading.Lock(), threading.Event(), 0

    def came(amount: int) -> None:
        nonlocal done
        with lock:
            done += amount
            progress(done, total)

    try:
        with beside(folder) as aside:
            with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="restore") as pool:
                copies = [pool.submit(_copy, store, manifest, f, aside / at, came, stop) for f, at in targets.items()]
                try:
                    for copy in copies:
                        copy.result()
                except BaseException:
                    stop.set()
                    raise
            if folder.exists():
                folder.rmdir()  # it is empty
            aside.rename(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreFull(
                f"No space left for {folder}: the checkpoint has {total:,} bytes. Nothing of it was kept."
            ) from error
        raise


def _copy(
    store: Store, manifest: Manifest, file: CopiedFile, target: Path, came: Callable[[int], None], stop: threading.Event
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    found = Sum()
    for parts in _ways(store, manifest, file):
        came(-found.size_bytes)
        found = Sum()
        with target.open("wb") as written:
            for part in parts:
                if stop.is_set():
                    return
                found.add(part)
                written.write(part)
                came(len(part))
            written.flush()
            os.fsync(written.fileno())
        if (found.size_bytes, found.crc32c) == (file.size_bytes, file.crc32c):
            return
    raise _differs(file, found)


def _target(file: CopiedFile, manifest: Manifest) -> PurePosixPath:
    """Where a file goes. A manifest is data: what it names must not lead out of the folder."""
    path = PurePosixPath(file.path)
    if path.is_absolute() or not path.parts or ".." in path.parts:
        raise Corrupt(
            f"the manifest of step {manifest.step} of {manifest.name} names {file.path!r}, outside its folder"
        )
    return path
