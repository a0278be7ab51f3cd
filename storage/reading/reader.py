"""Reads objects of one file system, for one process."""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from ...profiles.access import KIB, Access
from ..errors import ObjectChanged
from .buffers import Buffers, filled
from .fetching import Fetcher, Traffic
from .file import ObjectFile
from .origin import Origin, Progress, Version, origin_of
from .ranges import Request, coalesced, parts

_HEAD_BYTES = 256 * KIB
"""What comes with the answer to "what is this object?": most headers fit, and it costs 3 ms of transfer."""
_KEPT_VERSIONS = 65536

Range = tuple[str, int | None, int | None]
"""An object, and from where to where; None: its beginning or end; negative numbers count from the end."""


class Reader:
    """Reads whole objects, ranges and files. Any thread may ask.

    Not to be used in a forked child: its threads and connections are the parent's.

    Args:
        fs: the fsspec file system behind.
        buffers: the memory of this process for reads.
        connections: requests at once, at most.
    """

    def __init__(self, fs: Any, buffers: Buffers, *, connections: int) -> None:
        self._versions = _Versions()
        self._fetcher = Fetcher(self._origin(fs), buffers, connections=connections)
        weakref.finalize(self, self._fetcher.origin.close)

    @property
    def traffic(self) -> Traffic:
        """What was moved so far."""
        return self._fetcher.traffic

    def open(self, path: str, access: Access, fs: Any = None) -> ObjectFile:
        """An object as a file. Raises FileNotFoundError, PermissionError, StoreUnavailable."""
        version, head = self._first(path, access)
        return ObjectFile(self._fetcher, path, version, head, access, fs=fs)

    def size(self, path: str, access: Access) -> int:
        """How large an object is, in bytes."""
        return self._first(path, access)[0].size

    def get(self, path: str, access: Access, start: int | None = None, end: int | None = None) -> bytes:
        """A range of an object, or all of it."""
        return self._once_more(path, lambda: self._get(path, access, start, end))

    def get_each(self, paths: Sequence[str], access: Callable[[str], Access]) -> dict[str, bytes | Exception]:
        """Many objects at once; what can't be read is there as the error."""
        found: dict[str, bytes | Exception] = {}

        def one(path: str) -> int:
            try:
                data = found[path] = self.get(path, access(path))
            except Exception as error:  # noqa: BLE001 - handed out
                found[path] = error
                return 0
            return len(data)

        self._fetcher.each([lambda path=path: one(path) for path in dict.fromkeys(paths)])
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
                version, _ = self._first(path, values, 1)
            except Exception as error:  # noqa: BLE001 - handed out
                for place in places:
                    found[place] = error
                continue
            bounds = [_bounds(*ranges[place][1:], version.size) for place in places]
            gap = values.gap_bytes if gap_bytes is None else gap_bytes
            for request in coalesced(bounds, gap_bytes=gap, most_bytes=values.part_bytes):
                serves = [(places[index], *bounds[index]) for index in request.serves]
                tasks.append(_Shared(self._fetcher.origin, path, version, request, serves, found))
        self._fetcher.each(tasks)
        return found

    def forget(self) -> None:
        """Something was written: what is known of objects may be wrong."""
        self._versions.clear()

    # -- inside ------------------------------------------------------------------------------------------

    def _origin(self, fs: Any) -> Callable[[Callable[[], None]], Origin]:
        versions = self._versions
        return lambda refused: _Watched(origin_of(fs, refused), versions)

    def _first(self, path: str, access: Access, length: int = _HEAD_BYTES) -> tuple[Version, bytes]:
        known = self._versions.get(path, access.freshness_s)
        if known is not None:
            return known, b""
        version, head = self._fetcher.origin.first(path, length)
        if access.freshness_s > 0:
            self._versions.put(path, version)
        return version, head

    def _get(self, path: str, access: Access, start: int | None, end: int | None) -> bytes:
        version, head = self._first(path, access)
        first, last = _bounds(start, end, version.size)
        if last <= len(head):
            return head[first:last]

        def fill(into: memoryview) -> None:
            known = max(0, min(len(head), last) - first)
            into[:known] = head[first : first + known]
            pieces = parts(first + known, last, access.part_bytes)
            self._fetcher.fill(path, version, [(a, into[a - first : b - first]) for a, b in pieces])

        return filled(last - first, fill)

    def _once_more(self, path: str, act: Callable[[], bytes]) -> bytes:
        """Nothing was handed out yet, so an object that has changed since we knew it can simply be read anew."""
        try:
            return act()
        except ObjectChanged:
            self._versions.forget(path)
            return act()


class _Versions:
    """What objects were when the store said so."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[float, Version]] = OrderedDict()

    def get(self, path: str, freshness_s: float) -> Version | None:
        known = self._known.get(path)
        return known[1] if known is not None and time.monotonic() - known[0] < freshness_s else None

    def put(self, path: str, version: Version) -> None:
        with self._lock:
            self._known[path] = (time.monotonic(), version)
            if len(self._known) > _KEPT_VERSIONS:
                self._known.popitem(last=False)

    def forget(self, path: str) -> None:
        with self._lock:
            self._known.pop(path, None)

    def clear(self) -> None:
        with self._lock:
            self._known.clear()


class _Watched:
    """Forgets the version of an object that turns out to have changed, so that it can be opened again."""

    def __init__(self, origin: Origin, versions: _Versions) -> None:
        self._origin = origin
        self._versions = versions
        self.first = origin.first
        self.close = origin.close

    def read_into(self, path: str, version: Version, start: int, into: memoryview, progress: Progress) -> None:
        try:
            self._origin.read_into(path, version, start, into, progress)
        except ObjectChanged:
            self._versions.forget(path)
            raise


class _Shared:
    """A request that serves some ranges: (place in the answer, start, end)."""

    def __init__(
        self,
        origin: Origin,
        path: str,
        version: Version,
        request: Request,
        serves: Sequence[tuple[int, int, int]],
        found: list[bytes | Exception],
    ) -> None:
        self._origin, self._path, self._version = origin, path, version
        self._request, self._serves, self._found = request, serves, found

    def __call__(self) -> int:
        start, end = self._request.start, self._request.end
        try:
            data = filled(
                end - start, lambda into: self._origin.read_into(self._path, self._version, start, into, lambda _: None)
            )
        except Exception as error:  # noqa: BLE001 - handed out
            for place, _, _ in self._serves:
                self._found[place] = error
            return 0
        for place, first, last in self._serves:
            self._found[place] = data if last - first == len(data) else data[first - start : last - start]
        return len(data)


def _bounds(start: int | None, end: int | None, size: int) -> tuple[int, int]:
    first = 0 if start is None else start if start >= 0 else max(0, size + start)
    last = size if end is None else end if end >= 0 else max(0, size + end)
    first = min(first, size)
    return first, max(first, min(last, size))
