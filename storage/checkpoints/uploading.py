"""Files on their way into a step: several at once, each read once, with its CRC32C taken on the way."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

from ...profiles import CHECKPOINT, resolve
from ..checksums import Sum
from ..errors import NotAllowedNow, ObjectChanged, ObjectNotFound, StoreUnavailable
from ..sources import source_of, version_of
from ..store import Store
from .attempts import Attempt
from .manifest import CopiedFile, Manifest

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Told how many bytes of how many are there; from several threads, one at a time."""

_FILES_AT_ONCE = 8
_PART_BYTES = resolve(CHECKPOINT).access.part_bytes
_PAUSE_FIRST_S, _PAUSE_MOST_S = 0.1, 5.0


@dataclass(frozen=True, slots=True)
class Source:
    """A file that is to be uploaded.

    Attributes:
        path: relative to the checkpoint.
        parts: its bytes, from the beginning each time.
    """

    path: str
    size_bytes: int
    parts: Callable[[], Iterator[bytes]]


def of_views(path: str, size_bytes: int, views: Callable[[], Iterable[memoryview]]) -> Source:
    """A file that is in memory, in one piece or several."""

    def parts() -> Iterator[bytes]:
        for view in views():
            for start in range(0, view.nbytes, _PART_BYTES):
                yield bytes(view[start : start + _PART_BYTES])

    return Source(path, size_bytes, parts)


def of_folder(folder: str) -> list[Source]:
    """The files of a folder, below this machine's or of any fsspec URL, as they are now.

    Raises:
        ObjectNotFound: there is no folder with files.
        NotAllowedNow: it holds something that is no regular file.
    """
    fs, base = source_of(folder)
    found = cast("dict[str, dict[str, Any]]", fs.find(base, detail=True)) if fs.isdir(base) else {}
    if not found:
        raise ObjectNotFound(f"{folder} is no folder with files in it. Nothing was saved.")
    reading = _reading_ahead(fs)
    sources: list[Source] = []
    for path, about in sorted(found.items()):
        if about["type"] != "file" and not fs.isfile(path):
            raise NotAllowedNow(f"{path} is no regular file, and can't be saved. Nothing was saved.")
        relative = path.removeprefix(base).lstrip("/")
        if not relative.isprintable() and any("\ud800" <= sign <= "\udfff" for sign in relative):
            raise NotAllowedNow(f"The name {relative!r} is not UTF-8, and can't be saved. Nothing was saved.")
        info = about if about["type"] == "file" and not about.get("islink") else cast("dict[str, Any]", fs.info(path))
        sources.append(_of_file(fs, reading, path, relative, info))
    return sources


def write_step(
    store: Store, name: str, step: int, sources: Sequence[Source], *, progress: Progress, attempt: str = "",
    rank: int = 0, ranks: int = 1, patience_s: float = 0.0, timeout_s: float = 0.0,
) -> Manifest:  # fmt: skip
    """Make files a step, or a rank's share of it; returns once it is committed.

    Args:
        attempt: tells this try from others, and is the same for all ranks; letters and digits. "": one of its own.
        patience_s: how long to try again while the store is away.
        timeout_s: how long to wait for other ranks.

    Raises:
        NotAllowedNow: the step is there already.
        ObjectChanged, AttemptLost, StoreUnavailable: nothing is visible.
    """
    begun = Attempt(store, name, step, attempt=attempt, rank=rank, ranks=ranks, patience_s=patience_s)
    begun.begin()
    try:
        files = upload(store, begun.file_path, sources, patience_s=patience_s, progress=progress)
        return begun.commit(files, timeout_s=timeout_s)
    except BaseException as error:
        begun.give_up_quietly(f"rank {rank} failed: {type(error).__name__}: {error}")
        raise


def upload(
    store: Store, at: Callable[[str], str], sources: Sequence[Source], *, progress: Progress, patience_s: float = 0.0
) -> list[CopiedFile]:
    """Upload files.

    Args:
        at: where a file lies in the store, by its path.
        patience_s: how long to try a file again while the store is away.

    Raises:
        StoreUnavailable: the store was away for longer.
        ObjectChanged: a file was written again meanwhile.
    """
    total = sum(source.size_bytes for source in sources)
    lock, stop, done = threading.Lock(), threading.Event(), 0

    def came(amount: int) -> None:
        nonlocal done
        with lock:
            done += amount
            progress(done, total)

    with ThreadPoolExecutor(min(_FILES_AT_ONCE, len(sources) or 1), thread_name_prefix="checkpoint upload") as pool:
        # The largest first, so that none of them is left to the end.
        order = sorted(sources, key=lambda source: -source.size_bytes)
        running = [pool.submit(_patiently, store, at(one.path), one, patience_s, came, stop) for one in order]
        try:
            return [each.result() for each in running]
        except BaseException:
            stop.set()
            raise


class _Stopped(Exception):
    """Another file has failed."""


def _patiently(
    store: Store, at: str, source: Source, patience_s: float, came: Callable[[int], None], stop: threading.Event
) -> CopiedFile:
    pause_s, begin = _PAUSE_FIRST_S, time.monotonic()
    while True:
        sums = Sum()
        try:
            store.upload(at, _summed(source, sums, came, stop))
            return CopiedFile(source.path, sums.size_bytes, sums.crc32c)
        except StoreUnavailable as error:
            came(-sums.size_bytes)
            if time.monotonic() - begin >= patience_s:
                raise
            log.warning("%s Waiting.", error)
            if stop.wait(pause_s * random.uniform(0.7, 1.0)):  # noqa: S311 - spreads load, guards nothing
                raise
            pause_s = min(_PAUSE_MOST_S, pause_s * 2)


def _summed(source: Source, sums: Sum, came: Callable[[int], None], stop: threading.Event) -> Iterator[bytes]:
    for part in source.parts():
        if stop.is_set():
            raise _Stopped
        sums.add(part)
        came(len(part))
        yield part


def _reading_ahead(fs: Any) -> Any:
    """What reads files from afar by many requests at once; a folder of this machine is fast by itself."""
    from fsspec.implementations.local import LocalFileSystem

    from ..filesystem import CheckpointFileSystem, ProfiledFileSystem

    return fs if isinstance(fs, LocalFileSystem | ProfiledFileSystem) else CheckpointFileSystem(fs=fs)


def _of_file(fs: Any, reading: Any, path: str, relative: str, info: dict[str, Any]) -> Source:
    size, version = int(info["size"]), version_of(info)

    def parts() -> Iterator[bytes]:
        read = 0
        with reading.open(path, "rb") as file:
            while part := cast("bytes", file.read(_PART_BYTES)):
                read += len(part)
                if read > size:  # it may grow as fast as we read
                    raise ObjectChanged(path)
                yield part
        fs.invalidate_cache(path.rpartition("/")[0])
        now: dict[str, Any] = fs.info(path)
        if read != size or int(now["size"]) != size or version_of(now) != version:
            raise ObjectChanged(path)

    return Source(relative, size, parts)
