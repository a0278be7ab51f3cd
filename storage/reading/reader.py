"""Reads objects of one file system, for one process."""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isinf
from typing import Any

from ...profiles.access import KIB, Access
from ..answer import Space
from ..errors import ObjectChanged, SettingsError
from .buffers import Buffers
from .family import family_began_s
from .fetching import Fetcher
from .file import ObjectFile
from .heap import filled
from .origin import Cache, Direct, Origin, Progress, Source, Version, origin_of
from .ranges import Request, coalesced, spread

HEAD_BYTES = 256 * KIB
"""What comes with the answer to "what is this object?": most headers fit, and it costs 3 ms of transfer."""
_KEPT_VERSIONS = 65536
_KEPT_FOLDERS = 1024

Range = tuple[str, int | None, int | None]
"""An object, and from where to where; None: its beginning or end; negative numbers count from the end."""


@dataclass(slots=True)
class Traffic:
    """What came from the store so far."""

    requests: int = 0
    fetched_bytes: int = 0


class Reader:
    """Reads whole objects, ranges and files. Any thread may ask.

    Not to be used in a forked child: its threads and connections are the parent's.

    Args:
        fs: the fsspec file system behind.
        buffers: the memory of this process for reads.
        connections: requests at once, at most.
        cache: the cache that an access asks for, if there is one.
    """

    def __init__(
        self,
        fs: Any,
        buffers: Buffers,
        *,
        connections: int,
        cache: Callable[[Access], Cache | None] = lambda _: None,
    ) -> None:
        self.traffic = Traffic()
        self._cache = cache
        self._versions = _Versions()
        self._since_s = -1.0
        self.fetcher = Fetcher(self._origin(fs), buffers, connections=connections)
        weakref.finalize(self, self.fetcher.origin.close)

    def open(self, path: str, access: Access, fs: Any = None) -> ObjectFile:
        """An object as a file. Raises FileNotFoundError, PermissionError, StoreUnavailable."""
        source, head = self.first(path, access)
        return ObjectFile(self.fetcher, source, head, access, fs=fs)

    def size(self, path: str, access: Access) -> int:
        """How large an object is, in bytes."""
        return self.first(path, access)[0].version.size

    def get(self, path: str, access: Access, start: int | None = None, end: int | None = None) -> bytes:
        """A range of an object, or all of it."""
        return self._once_more(path, access, lambda: self._get(path, access, start, end))[0]

    def get_each(self, paths: Sequence[str], access: Callable[[str], Access]) -> dict[str, bytes | Exception]:
        """Many objects at once; what can't be read is there as the error."""
        found: dict[str, bytes | Exception] = {}
        wanted = dict.fromkeys(paths)

        def one(path: str) -> int:
            try:
                values = access(path)
                whole = partial(self._get, path, values, None, None, beside=len(wanted))
                found[path], came = self._once_more(path, values, whole)
            except Exception as error:  # noqa: BLE001 - handed out
                found[path] = error
                return 0
            return came

        self.fetcher.each([lambda path=path: one(path) for path in wanted])
        return found

    def get_ranges(
        self, ranges: Sequence[Range], access: Callable[[str], Access], gap_bytes: int | None = None
    ) -> list[bytes | Exception]:
        """Many ranges at once, in the order asked for; those that lie close together are fetched by one request.

        Args:
            gap_bytes: how close; by default what the profile says.
        """
        found: list[bytes | Exception] = [b""] * len(ranges)
        by_path: dict[str, list[int]] = {}
        for place, (path, _, _) in enumerate(ranges):
            by_path.setdefault(path, []).append(place)
        tasks: list[Callable[[], int]] = []
        for path, places in by_path.items():
            values = access(path)
            try:
                source, _ = self.first(path, values, 1)
            except Exception as error:  # noqa: BLE001 - handed out
                for place in places:
                    found[place] = error
                continue
            bounds = [_bounds(*ranges[place][1:], source.version.size) for place in places]
            gap = values.gap_bytes if gap_bytes is None else gap_bytes
            for request in coalesced(bounds, gap_bytes=gap, most_bytes=values.part_bytes):
                serves = [(places[index], *bounds[index]) for index in request.serves]
                tasks.append(_Shared(source, request, serves, found))
        self.fetcher.each(tasks)
        return found

    def first(
        self, path: str, access: Access, length: int = HEAD_BYTES, *, is_use: bool = True
    ) -> tuple[Source, bytes]:
        """The way to an object's bytes, and the first of them, if it had to be asked what it is.

        Args:
            is_use: whether somebody is about to read them.
        """
        cache = self._cache(access)
        known = self._known(path, access, cache)
        if known is not None:
            return self.source(path, known, access, cache, is_use=is_use), b""
        if cache is None or access.freshness_s <= 0 or access.when_replaced != "error":
            return self._ask(path, access, length, cache, is_use=is_use)
        self.fetcher.origin.get_ready(path)
        with cache.asking(path):
            known = self._known(path, access, cache)
            if known is not None:
                return self.source(path, known, access, cache, is_use=is_use), b""
            return self._ask(path, access, length, cache, is_use=is_use)

    def source(
        self, path: str, version: Version, access: Access, cache: Cache | None = None, *, is_use: bool = True
    ) -> Source:
        """The way to the bytes of an object that is of a known version."""
        direct = Direct(self.fetcher.origin, path, _wanted(version, path, access))
        cache = cache or self._cache(access)
        return direct if cache is None else cache.source(direct, self.fetcher.buffers, access.gap_bytes, is_use=is_use)

    def forget(self, path: str | None = None) -> None:
        """An object, or anything, was written: what is known of it may be wrong."""
        if path is not None:
            self._versions.forget(path)
            return
        self._versions.clear()
        self._since_s = time.time()

    def forget_object(self, path: str, access: Access) -> None:
        """An object has changed since it was known."""
        self._versions.forget(path)
        cache = self._cache(access)
        if cache is not None:
            cache.forget(path)

    # -- inside ------------------------------------------------------------------------------------------

    def _origin(self, fs: Any) -> Callable[[Callable[[], None]], Origin]:
        # Not this reader itself, or it would live as long as its requests do.
        versions, traffic = self._versions, self.traffic
        return lambda refused: _Watched(origin_of(fs, refused), versions, traffic)

    def _known(self, path: str, access: Access, cache: Cache | None) -> Version | None:
        """What an object is, if that was asked lately enough."""
        known = self._versions.get(path, access.freshness_s)
        if known is None and cache is not None and access.freshness_s > 0:
            if self._since_s < 0:
                # Not sooner: while a worker that was spawned is handed its work, it doesn't know its parent yet.
                self._since_s = family_began_s()
            # What others have asked since counts too.
            since_s = max(self._since_s, self._versions.changed_s(path), time.time() - access.freshness_s)
            known = cache.version(path, since_s)
            if known is not None and isinf(access.freshness_s):
                self._versions.put(path, known)
        return known if known is not None and (known.kept or access.when_replaced == "error") else None

    def _ask(
        self, path: str, access: Access, length: int, cache: Cache | None, *, is_use: bool
    ) -> tuple[Source, bytes]:
        held = None if cache is None else cache.holds_first(path, length)
        version, head = self.fetcher.origin.first(path, length if held is None else 1)
        if held is not None and (held.size, held.tag) == (version.size, version.tag):
            head = b""  # it is as it was, and here
        self._versions.sized(path, version.size)
        source = self.source(path, version, access, cache, is_use=is_use)
        source.keep(0, memoryview(head))
        # Told last: whoever knows what it is would fetch what has come already.
        if access.freshness_s > 0:
            self._versions.put(path, version)
        if cache is not None:
            cache.remember(path, version)
        return source, head

    def _first_bytes(self, path: str, access: Access, start: int | None, end: int | None) -> int:
        """How much to ask for before it is known how large an object is: all that is wanted, if that is likely small.

        Objects of one folder are much alike, so that most of a data set come by one request each instead of two.
        """
        likely = self._versions.size_like(path)
        if likely > access.part_bytes or start not in (None, 0):
            return HEAD_BYTES
        return max(HEAD_BYTES, likely if end is None or end < 0 else min(end, likely))

    def _get(
        self, path: str, access: Access, start: int | None, end: int | None, *, beside: int = 1
    ) -> tuple[bytes, int]:
        """Bytes of an object, and how many of them came from the store.

        Args:
            beside: so many objects are got at once.
        """
        source, head = self.first(path, access, self._first_bytes(path, access, start, end))
        first, last = _bounds(start, end, source.version.size)
        if last <= len(head):
            return head[first:last], len(head)
        came = 0

        def fill(into: memoryview) -> None:
            nonlocal came
            if not head and source.at_hand(first, into, self.fetcher.each):
                return
            came = len(into)
            known = max(0, min(len(head), last) - first)
            into[:known] = head[first : first + known]
            cut = spread(first + known, last, access.part_bytes, max(1, access.connections // beside))
            self.fetcher.fill(source, [(a, into[a - first : b - first]) for a, b in cut])

        return filled(last - first, fill), came

    def _once_more(self, path: str, access: Access, act: Callable[[], tuple[bytes, int]]) -> tuple[bytes, int]:
        """Nothing was handed out yet, so an object that has changed since we knew it can simply be read anew."""
        try:
            return act()
        except ObjectChanged:
            self.forget_object(path, access)
            return act()


class _Versions:
    """What objects were when the store said so."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[float, Version]] = OrderedDict()
        self._changed_s: OrderedDict[str, float] = OrderedDict()
        self._sizes: OrderedDict[str, int] = OrderedDict()

    def get(self, path: str, freshness_s: float) -> Version | None:
        known = self._known.get(path)
        return known[1] if known is not None and time.monotonic() - known[0] < freshness_s else None

    def put(self, path: str, version: Version) -> None:
        with self._lock:
            self._known[path] = (time.monotonic(), version)
            if len(self._known) > _KEPT_VERSIONS:
                self._known.popitem(last=False)

    def sized(self, path: str, size: int) -> None:
        """An object has this size."""
        with self._lock:
            self._sizes[_folder(path)] = size
            if len(self._sizes) > _KEPT_FOLDERS:
                self._sizes.popitem(last=False)

    def size_like(self, path: str) -> int:
        """The size of the last object beside another that was seen; 0 without any."""
        return self._sizes.get(_folder(path), 0)

    def forget(self, path: str) -> None:
        with self._lock:
            self._known.pop(path, None)
            self._changed_s[path] = time.time()
            if len(self._changed_s) > _KEPT_VERSIONS:
                self._changed_s.popitem(last=False)

    def changed_s(self, path: str) -> float:
        """When an object was found to have changed, in seconds since the epoch; 0.0: never."""
        return self._changed_s.get(path, 0.0)

    def clear(self) -> None:
        with self._lock:
            self._known.clear()


class _Watched:
    """Counts what comes, and forgets the version of an object that has changed, so that it can be opened again."""

    def __init__(self, origin: Origin, versions: _Versions, traffic: Traffic) -> None:
        self._origin = origin
        self._versions = versions
        self._traffic = traffic
        self._lock = threading.Lock()
        self.get_ready = origin.get_ready
        self.close = origin.close

    def first(self, path: str, length: int) -> tuple[Version, bytes]:
        version, head = self._origin.first(path, length)
        self._count(len(head))
        return version, head

    def read_into(self, path: str, version: Version, start: int, into: Space, progress: Progress) -> None:
        try:
            self._origin.read_into(path, version, start, into, progress)
        except ObjectChanged:
            self._versions.forget(path)
            raise
        self._count(len(into))

    def _count(self, came: int) -> None:
        with self._lock:
            self._traffic.requests += 1
            self._traffic.fetched_bytes += came


class _Shared:
    """A request that serves some ranges: (place in the answer, start, end)."""

    def __init__(
        self,
        source: Source,
        request: Request,
        serves: Sequence[tuple[int, int, int]],
        found: list[bytes | Exception],
    ) -> None:
        self._source = source
        self._request, self._serves, self._found = request, serves, found

    def __call__(self) -> int:
        start, end = self._request.start, self._request.end
        came = 0

        def fill(into: memoryview) -> None:
            nonlocal came
            came = self._source.read_into(start, into, lambda _: None)

        try:
            data = filled(end - start, fill)
        except Exception as error:  # noqa: BLE001 - handed out
            for place, _, _ in self._serves:
                self._found[place] = error
            return 0
        for place, first, last in self._serves:
            self._found[place] = data if last - first == len(data) else data[first - start : last - start]
        return came


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _wanted(version: Version, path: str, access: Access) -> Version:
    """The version as it is to be read: for as long as it is the object's, or for as long as the store keeps it."""
    if access.when_replaced == "error":
        return replace(version, kept="") if version.kept else version
    if version.size and not version.kept:
        raise SettingsError(
            f"{path} can't be read with when_replaced = 'old version', since its store keeps no old versions of it. "
            f"Turn on versioning for the bucket, or leave it at 'error'."
        )
    return version


def _bounds(start: int | None, end: int | None, size: int) -> tuple[int, int]:
    first = 0 if start is None else start if start >= 0 else max(0, size + start)
    last = size if end is None else end if end >= 0 else max(0, size + end)
    first = min(first, size)
    return first, max(first, min(last, size))
