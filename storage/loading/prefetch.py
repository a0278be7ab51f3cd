"""Bring objects into the cache in the order in which they will be read, a bounded way ahead of their readers."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from itertools import chain, islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from ...profiles.access import GIB, MIB, Access
from ..caching.cached import CachedObject
from ..caching.through import CachedSource
from ..errors import SettingsError
from ..reading.origin import Abandoned
from ..reading.ranges import parts
from ..reading.reader import HEAD_BYTES

if TYPE_CHECKING:
    from ..filesystem import ProfiledFileSystem

log = logging.getLogger(__name__)

Item = TypeVar("Item")

_SHARE, _LEAST_BYTES, _MOST_BYTES = 20, 64 * MIB, GIB
_FULL_SHARE = 32
"""Once the cache is full, what is brought early takes the room of what would have been read from it later: then a
thirty-second part of it is enough to lose less than a twentieth of the hits."""
_AHEAD_OBJECTS = 512
_KNOWN = 1_000_000
_LOOK_S = 0.05
_GIVE_UP_S = 0.5
"""So long nothing is fetched ahead after the cache had no room."""
_PAUSE_SHARE = 10
"""So many times as long as it took to see that all that is there is needed sooner."""


class Prefetch(Generic[Item]):
    """Objects that are brought into the cache ahead of whoever reads them.

    Iterating it yields each item once its object is at hand; what was yielded before counts as read when the next one
    is asked for. It is a sampler, too: each iteration asks the given items for their order again. Used in a `with`, it
    works behind the scenes, and notices what is read, by any process of this machine, from the reads themselves.

        loader = DataLoader(data, sampler=fs.prefetch(RandomSampler(data), path=data.paths.__getitem__), …)

        for path in fs.prefetch(paths):
            train(fs.cat_file(path))

        with fs.prefetch(paths):
            ...                        # the workers read in about this order

    An object that can't be fetched stops nothing: whoever reads it is told. Without a cache, or without room in it,
    nothing is fetched ahead, which is logged once; nor while a full cache could give room to less than two of the
    objects, unless you say how far ahead.
    """

    def __init__(
        self,
        fs: ProfiledFileSystem,
        items: Iterable[Item],
        *,
        path: Callable[[Item], str] | None = None,
        ahead_bytes: int | None = None,
        ahead_objects: int | None = None,
    ) -> None:
        for name, value in (("ahead_bytes", ahead_bytes), ("ahead_objects", ahead_objects)):
            if value is not None and value < 1:
                raise SettingsError(f"{name} is {value}; it has to be 1 or more")
        self._fs = fs
        self._items = items
        self._path: Callable[[Any], str] = path or str
        self._ahead = ahead_bytes, ahead_objects
        self._behind_scenes: _Run | None = None

    def __len__(self) -> int:
        return len(cast("Sized", self._items))

    def __iter__(self) -> Iterator[Item]:
        remaining = iter(self._items)
        while known := list(islice(remaining, _KNOWN)):
            run = self._run(known, by_reads=False)
            try:
                for place, item in enumerate(known):
                    run.wait_for(place)
                    yield item
            finally:
                run.close()

    def __enter__(self) -> Self:
        self._behind_scenes = self._run(list(islice(self._items, _KNOWN)), by_reads=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what works behind the scenes; requests under way are broken off."""
        if self._behind_scenes is not None:
            self._behind_scenes.close()
            self._behind_scenes = None

    def _run(self, known: list[Item], *, by_reads: bool) -> _Run:
        paths = [self._fs.stripped(self._path(item)) for item in known]
        return _Run(self._fs, paths, *self._ahead, by_reads=by_reads)


def prefetch(
    urls: Iterable[str], *, ahead_bytes: int | None = None, ahead_objects: int | None = None, **options: Any
) -> Prefetch[str]:
    """Bring objects into the cache in the order in which they will be read; see Prefetch.

    Args:
        urls: of one store, e.g. "training::s3://bucket/set/0001.tar"; without a profile, `training` counts.
        ahead_bytes: how far ahead of the readers at most; by default a twentieth of the cache, 64 MiB to 1 GiB, and
            never more than half of it; a thirty-second part of a full one.
        ahead_objects: the same in objects; by default 512.
        options: of the store or the profile, as fsspec takes them.
    """
    from ..filesystem import profiled

    remaining = iter(urls)
    begin = list(islice(remaining, 1))
    if not begin:
        raise SettingsError("there is no URL to prefetch")
    fs, _ = profiled(begin[0], "training", options)
    return Prefetch(
        fs, begin + list(remaining) if isinstance(urls, Sized) else chain(begin, remaining),
        ahead_bytes=ahead_bytes, ahead_objects=ahead_objects,
    )  # fmt: skip


@dataclass(slots=True)
class _Ahead:
    """An object that was begun.

    Attributes:
        lacking_bytes: what was not there of it when its turn came.
    """

    lacking_bytes: int = 0
    parts_left: int = 1
    is_at_hand: bool = False
    has_passed: bool = False
    cached: CachedObject | None = None
    opens: int = 0


@dataclass
class _Window:
    """What is ahead of the readers, by place in the order."""

    begun: dict[int, _Ahead] = field(default_factory=dict[int, _Ahead])
    lacking_bytes: int = 0
    largest_bytes: int = 0

    def begin(self, place: int) -> _Ahead:
        """As long as it is not known what it lacks, it counts as much as the largest so far has."""
        self.begun[place] = found = _Ahead()
        self._lacks(found, self.largest_bytes)
        return found

    def found(self, one: _Ahead, size: int, lacking_bytes: int) -> None:
        """What an object is, and lacks, is known now."""
        self.largest_bytes = max(self.largest_bytes, size)
        self._lacks(one, lacking_bytes)

    def passed(self, place: int) -> None:
        one = self.begun.pop(place, None)
        if one is not None:
            self._lacks(one, 0)
            one.has_passed = True

    def _lacks(self, one: _Ahead, lacking_bytes: int) -> None:
        if not one.has_passed:
            self.lacking_bytes += lacking_bytes - one.lacking_bytes
            one.lacking_bytes = lacking_bytes


class _Run:
    """One way through a known order."""

    def __init__(
        self,
        fs: ProfiledFileSystem,
        paths: list[str],
        ahead_bytes: int | None,
        ahead_objects: int | None,
        *,
        by_reads: bool,
    ) -> None:
        self._fs = fs
        self._reader = fs.reader
        self._paths = paths
        self._by_reads = by_reads
        access = fs.explain(paths[0])[1].access if paths else Access()
        wide = max(_LEAST_BYTES, min(_MOST_BYTES, access.cache_bytes // _SHARE))
        self._wide_bytes = max(1, min(ahead_bytes or min(wide, access.cache_bytes // 4), access.cache_bytes // 2))
        self._full_bytes = ahead_bytes or max(1, min(self._wide_bytes, access.cache_bytes // _FULL_SHARE))
        self._ahead_bytes = self._full_bytes  # until it is known that there is room for more
        self._says_how_far = ahead_bytes is not None or ahead_objects is not None
        self._ahead_objects = min(ahead_objects or _AHEAD_OBJECTS, 65536)
        self._began_s = time.time()
        self._news = threading.Condition()
        self._window = _Window()
        self._next = 0
        self._read = 0
        self._is_closed = False
        self._is_useless = False
        self._promised_bytes = 0
        self._no_room_until = 0.0
        self._has_told = False
        self._process = os.getpid()
        self._places: dict[str, deque[int]] = {}
        for place, path in enumerate(paths):
            self._places.setdefault(path, deque()).append(place)
        self._thread = threading.Thread(target=self._work, name="holdshort-prefetch", daemon=True)
        self._thread.start()

    def wait_for(self, place: int) -> None:
        """All before this place was read; return when this one is at hand, or never will be."""
        with self._news:
            self._passed_to(place)
            self._news.notify_all()
            while not (self._is_closed or self._is_useless or self._is_done(place)):
                self._news.wait()

    def close(self) -> None:
        """Break off what is under way."""
        if self._process != os.getpid():
            return
        with self._news:
            self._is_closed = True
            self._news.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # -- inside ------------------------------------------------------------------------------------------

    def _is_done(self, place: int) -> bool:
        one = self._window.begun.get(place)
        return one.is_at_hand if one is not None else place < self._next

    def _passed_to(self, place: int) -> None:
        for each in range(self._read, place):
            self._window.passed(each)
        self._read = max(self._read, place)
        self._next = max(self._next, self._read)

    def _work(self) -> None:
        for _ in self._turns():
            with self._news:
                place = self._next
                self._next += 1
                one = self._window.begin(place)
            self._reader.fetcher.submit(lambda place=place, one=one: self._first(place, one), is_ahead=True)

    def _turns(self) -> Generator[None]:
        """Yields whenever one more object may be begun."""
        while True:
            with self._news:
                while not self._may_begin():
                    if self._is_closed or self._is_useless or self._read >= len(self._paths):
                        return
                    self._news.wait(_LOOK_S if self._by_reads else None)
                    if self._by_reads:
                        self._notice()
                if self._is_closed or self._is_useless:
                    return
            yield

    def _may_begin(self) -> bool:
        window = self._window
        if self._next >= len(self._paths) or len(window.begun) >= self._ahead_objects:
            return False
        # The second one waits until it is known how large the first is.
        return not window.begun or (window.largest_bytes > 0 and window.lacking_bytes < self._ahead_bytes)

    def _notice(self) -> None:
        """What others have opened since it was brought has been read; so has what lies far before that."""
        last = -1
        for place, one in list(self._window.begun.items()):
            if one.is_at_hand and (one.cached is None or one.cached.use.opens > one.opens):
                last = place if one.cached is not None else last
                self._window.passed(place)
        if last >= 0:
            # Workers read in about this order; what is so far behind will not be read any more.
            for place in [each for each in self._window.begun if each < last - self._ahead_objects // 2]:
                self._window.passed(place)
        if not self._window.begun:
            self._read = self._next

    def _first(self, place: int, one: _Ahead) -> int:
        """Ask what an object is, and begin to fetch what is not there of it; returns how many bytes came."""
        path = self._paths[place]
        came = 0
        try:
            if self._is_closed or time.monotonic() < self._no_room_until:
                return 0
            access = self._fs.explain(path)[1].access
            self._promised(HEAD_BYTES)  # they are kept as soon as they come
            try:
                source, head = self._reader.first(path, access, is_use=False)
            finally:
                self._promised(-HEAD_BYTES)
            came = len(head)
            if not isinstance(source, CachedSource):
                self._useless(f"{path} is not cached")
                return came
            one.cached = source.cached
            if self._by_reads:
                use = source.cached.use
                one.opens = use.opens
                if self._is_new(place) and use.opens and use.last_s >= self._began_s:
                    one.opens = -1  # its reader was faster
                    return came
            size = source.version.size
            lacking = sum(end - start for start, end in source.cached.missing(0, size))
            with self._news:
                if lacking:
                    self._ahead_bytes = self._wide_bytes if source.has_room(self._wide_bytes) else self._full_bytes
                self._window.found(one, size, lacking + len(head))
                self._promised_bytes += lacking
                promised = self._promised_bytes
                self._news.notify_all()
            if not lacking:
                return came
            looked_s = time.monotonic()
            if self._ahead_bytes < 2 * size and not self._says_how_far:
                # One after the other is slower than several readers by themselves, and none is at hand any sooner.
                self._promised(-lacking)
                self._no_room_until = looked_s + _GIVE_UP_S
                source.drop_empty()
                log.info("%s is not fetched ahead: the full cache has no room for two such objects.", path)
                return came
            if not source.make_room(promised, self._coming(place)):
                # What is there is needed sooner. To look again is dear where much is there.
                self._promised(-lacking)
                self._no_room_until = time.monotonic() + _PAUSE_SHARE * (time.monotonic() - looked_s)
                log.info("%s is not fetched ahead: all that the cache holds is needed sooner.", path)
                return came
            source.keep(0, memoryview(head), has_room=True)
            gaps = source.cached.missing(0, size)
            self._promised(sum(end - start for start, end in gaps) - lacking)
            # So that all connections have something to do, however little may be fetched ahead.
            part_bytes = max(MIB, min(access.part_bytes, self._ahead_bytes // access.connections) // MIB * MIB)
            pieces = [piece for gap in gaps for piece in parts(*gap, part_bytes)]
            one.parts_left += len(pieces)
            for start, end in pieces:
                self._reader.fetcher.submit(
                    lambda start=start, end=end: self._part(source, start, end, one), is_ahead=True
                )
        except Exception as error:  # noqa: BLE001 - whoever reads it is told
            log.info("%s could not be fetched ahead: %s", path, error)
        finally:
            self._ended(one)
        return came

    def _part(self, source: CachedSource, start: int, end: int, one: _Ahead) -> int:
        def progress(_: int) -> None:
            if self._is_closed:
                raise Abandoned

        def arrived(_start: int, _data: memoryview, is_kept: bool) -> None:
            if not is_kept:
                self._no_room(source.path)

        try:
            return 0 if self._is_closed else source.bring(start, end, progress, arrived=arrived, has_room=True)
        except Abandoned:
            return 0
        except Exception as error:  # noqa: BLE001 - whoever reads it is told
            log.info("%s could not be fetched ahead: %s", source.path, error)
            return 0
        finally:
            self._promised(start - end)
            self._ended(one)

    def _promised(self, more: int) -> None:
        """Bytes for which there is room, and which have not come yet."""
        with self._news:
            self._promised_bytes += more

    def _ended(self, one: _Ahead) -> None:
        with self._news:
            one.parts_left -= 1
            if one.parts_left == 0:
                one.is_at_hand = True
            self._news.notify_all()

    def _is_new(self, place: int) -> bool:
        return self._places[self._paths[place]][0] == place

    def _coming(self, place: int) -> Mapping[str, int]:
        """In how many steps objects are read next; that at `place` itself too."""
        return _Coming(self._places, self._read, place, self._paths[place])

    def _useless(self, why: str) -> None:
        with self._news:
            self._is_useless = True
        log.warning("Nothing is fetched ahead: %s.", why)

    def _no_room(self, path: str) -> None:
        self._no_room_until = time.monotonic() + _GIVE_UP_S
        if not self._has_told:
            self._has_told = True
            log.warning("%s is not fetched ahead: the cache has no room for it.", path)


class _Coming(Mapping[str, int]):
    """In how many steps from a place objects are read next, by path."""

    def __init__(self, places: Mapping[str, deque[int]], read: int, place: int, path: str) -> None:
        self._places = places
        self._read = read
        self._own = path, place - read

    def __getitem__(self, path: str) -> int:
        if path == self._own[0]:
            return self._own[1]
        return next(place for place in self._places[path] if place >= self._read) - self._read

    def __contains__(self, path: object) -> bool:
        places = self._places.get(cast("str", path))
        return places is not None and (path == self._own[0] or places[-1] >= self._read)

    def __iter__(self) -> Iterator[str]:
        return (path for path in self._places if path in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)
