"""How long readers wait, by a model of the read path: what it decides is decided by the real modules, time is counted.

A trace is replayed by its processes at once: each thinks for as long as lies between two of its events, and waits for
what it asked for. Requests take the store's time to the first byte and then share the line; how far is read ahead, how
ranges are put together, how many requests are under way and which blocks are fetched for the cache follows
storage/reading and storage/caching, as they are. What is not in it: memory that runs out, a cache that gets full,
requests that fail, and the processor's time beyond a few measured prices.
"""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import inf
from typing import Any, cast

from holdshort.profiles import BUILT_IN, Access, choose
from holdshort.profiles.pattern import Event, Observed, Seen, folder_of
from holdshort.storage.caching.layout import BLOCK_BYTES, blocks_around, missing
from holdshort.storage.observing import EVERY_S, WORTH_TELLING, is_worth_a_look
from holdshort.storage.reading.ahead import ReadAhead
from holdshort.storage.reading.file import FINISHED_BYTES
from holdshort.storage.reading.pace import Pace
from holdshort.storage.reading.ranges import EDGE_BYTES, coalesced, part_end, spread
from holdshort.storage.reading.reader import HEAD_BYTES
from holdshort.storage.reading.window import AT_ONCE
from support.traces import grouped, stage_of


@dataclass(frozen=True)
class World:
    """What takes how long.

    Attributes:
        first_byte_s: from a request to its first byte.
        per_connection: bytes a second of one request.
        line: bytes a second of all together.
        copied: bytes a second from memory to the reader.
        cached: bytes a second from the cache, checked.
        kept: bytes a second into the cache.
        call_s: of a read, whatever it reads.
        remembered_s: to write down what an object is, for other processes.
        look_up_s: to find an object in the cache.
    """

    first_byte_s: float = 0.040
    per_connection: float = 90e6
    line: float = 1e9
    copied: float = 3e9
    cached: float = 3e9
    kept: float = 0.5e9
    call_s: float = 30e-6
    remembered_s: float = 300e-6
    look_up_s: float = 150e-6
    request_s: float = 400e-6


@dataclass
class Cost:
    """What a trace cost.

    Attributes:
        waited_s: by all processes together.
        fetched_bytes: from the store.
        wanted_bytes: that were asked for, each counted once.
        switches: how often the profile of a folder became another one; for `auto` only.
    """

    waited_s: float = 0.0
    fetched_bytes: int = 0
    wanted_bytes: int = 0
    requests: int = 0
    switches: list[str] = field(default_factory=list[str])

    @property
    def total_s(self) -> float:
        """What counts: waiting, and for each byte that nobody asked for, or again, its time on one connection."""
        return self.waited_s + max(0, self.fetched_bytes - self.wanted_bytes) / World.per_connection


def cost(trace: Sequence[Event], profile: str, world: World | None = None) -> Cost:
    """Of a trace, by the profile of that name, or by "auto"."""
    simulation = _Simulation(world or World(), profile)
    by_process: defaultdict[str, list[Event]] = defaultdict(list)
    for event in trace:
        by_process[event.process].append(event)
    for _, names in groupby(sorted(by_process, key=stage_of), key=stage_of):
        for name in names:
            _Reader(simulation, name).begin(by_process[name])
        simulation.loop.run()
    simulation.cost.wanted_bytes = _wanted_bytes(trace)
    return simulation.cost


# -- time ------------------------------------------------------------------------------------------------

Steps = Generator[Any, None, Any]


class _Signal:
    """Something that happens once, and those who wait for it."""

    def __init__(self) -> None:
        self.is_over = False
        self.waiting: list[Callable[[], None]] = []

    def fire(self) -> None:
        if not self.is_over:
            self.is_over = True
            for go_on in self.waiting:
                go_on()
            self.waiting.clear()


class _Loop:
    """Time, and the line that all share: at any moment each transfer gets the same."""

    def __init__(self, world: World) -> None:
        self.now = 0.0
        self._world = world
        self._numbers = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._marks: list[tuple[float, int, Callable[[], None]]] = []
        self.moved = 0.0  # bytes that one transfer which never ended would have brought
        self.active = 0

    def at(self, when: float, run: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when, next(self._numbers), run))

    def mark(self, moved: float, run: Callable[[], None]) -> None:
        heapq.heappush(self._marks, (moved, next(self._numbers), run))

    def spawn(self, steps: Steps, then: Callable[[Any], None] = lambda _: None) -> None:
        def go_on() -> None:
            try:
                wanted = next(steps)
            except StopIteration as over:
                then(over.value)
                return
            if isinstance(wanted, float | int):
                self.at(self.now + wanted, go_on)
            elif wanted.is_over:
                self.at(self.now, go_on)
            else:
                wanted.waiting.append(go_on)

        self.at(self.now, go_on)

    def run(self) -> None:
        while self._due or self._marks:
            rate = min(self._world.per_connection, self._world.line / self.active) if self.active else inf
            marked = self.now + max(0.0, self._marks[0][0] - self.moved) / rate if self._marks else inf
            if self._due and self._due[0][0] <= marked:
                when, _, run = heapq.heappop(self._due)
                if self.active:
                    self.moved += rate * max(0.0, when - self.now)
                self.now = max(self.now, when)
            else:
                moved, _, run = heapq.heappop(self._marks)
                self.moved, self.now = max(self.moved, moved), marked if self.active else self.now
            run()


class _Transfer:
    """The body of an answer."""

    def __init__(self, loop: _Loop, length: int) -> None:
        self._loop, self._began, self._length = loop, loop.moved, length
        self.over = _Signal()
        self._came = 0.0
        loop.active += 1
        loop.mark(self._began + length, self.end)

    @property
    def came(self) -> float:
        return self._came if self.over.is_over else min(self._length, self._loop.moved - self._began)

    def end(self) -> None:
        """All of it is there, or nobody wants the rest."""
        if not self.over.is_over:
            self._came = self.came
            self._loop.active -= 1
            self.over.fire()

    def until(self, length: float) -> _Signal:
        if length >= self._length or self.over.is_over:
            return self.over
        there = _Signal()
        self._loop.mark(self._began + length, there.fire)
        self.over.waiting.append(there.fire)
        return there


# -- store and cache ---------------------------------------------------------------------------------------


class _Simulation:
    """One store, one machine with its cache."""

    def __init__(self, world: World, profile: str) -> None:
        self.world, self.profile = world, profile
        self.loop = _Loop(world)
        self.cost = Cost()
        self.held: dict[str, bytearray] = {}
        self.flights: defaultdict[str, list[tuple[int, int, _Signal]]] = defaultdict(list)
        self.asked_s: dict[str, float] = {}
        self.told: defaultdict[str, dict[str, Seen]] = defaultdict(dict)

    def missing(self, path: str, size: int, start: int, end: int, gap_bytes: int = 0) -> list[tuple[int, int]]:
        first, last = blocks_around(start, min(end, size))
        held = self.held.setdefault(path, bytearray(-(-size // BLOCK_BYTES)))
        runs = missing([0 if there else None for there in held[first:last]], first, gap_bytes // BLOCK_BYTES)
        return [(begin * BLOCK_BYTES, min(stop * BLOCK_BYTES, size)) for begin, stop in runs]

    def keep(self, path: str, size: int, start: int, end: int) -> None:
        first = -(-start // BLOCK_BYTES)
        last = -(-size // BLOCK_BYTES) if end >= size else end // BLOCK_BYTES
        held = self.held.setdefault(path, bytearray(-(-size // BLOCK_BYTES)))
        if first < last:
            held[first:last] = b"\1" * (last - first)


class _Part:
    """A range that is on its way; see reading.window.Part."""

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, end
        self.told = 0.0
        self.flow: _Transfer | None = None
        self.news = _Signal()
        self.is_over = self.is_dropped = self.is_used = False

    def tell(self, told: float, flow: _Transfer | None = None) -> None:
        self.told, self.flow = told, flow
        news, self.news = self.news, _Signal()
        news.fire()

    def wait_for(self, length: int) -> Steps:
        self.is_used = True
        while not self.is_over and self.told + (self.flow.came if self.flow else 0.0) < length - 0.5:
            yield self.flow.until(length - self.told) if self.flow and not self.flow.over.is_over else self.news

    def drop(self, *, is_finished: bool) -> None:
        if is_finished:
            return
        self.is_dropped = True
        if self.flow is not None:
            self.flow.end()


class _Fetcher:
    """Requests under way of one process; see reading.fetching.Fetcher."""

    def __init__(self, loop: _Loop, connections: int) -> None:
        self._loop = loop
        self._pace = Pace(connections)
        self._waiting: list[tuple[int, int, Steps, _Signal]] = []
        self._numbers = itertools.count()
        self._in_flight = 0

    def submit(self, steps: Steps, *, is_ahead: bool = False) -> _Signal:
        done = _Signal()
        heapq.heappush(self._waiting, (int(is_ahead), next(self._numbers), steps, done))
        self._go_on()
        return done

    def _go_on(self) -> None:
        while self._waiting and self._in_flight < self._pace.limit:
            _, _, steps, done = heapq.heappop(self._waiting)
            self._in_flight += 1

            def ended(got: Any, done: _Signal = done) -> None:
                self._in_flight -= 1
                if got or not self._in_flight:
                    self._pace.ended(got or 0, self._loop.now, in_flight=self._in_flight, waiting=len(self._waiting))
                done.fire()
                self._go_on()

            self._loop.spawn(steps, ended)


# -- a process -----------------------------------------------------------------------------------------------


class _File:
    """An open object; see reading.file.ObjectFile."""

    def __init__(self, path: str, size: int, head: int, access: Access) -> None:
        self.path, self.size, self.head = path, size, head
        self.ahead = ReadAhead(access, size)
        self.access = self.opened_with = access
        self.parts: deque[_Part] = deque()
        self.reads = 0

    def holding(self, position: int) -> _Part | None:
        return next((part for part in self.parts if part.start <= position < part.end), None)

    def drop_first(self) -> None:
        part = self.parts.popleft()
        is_wanted = part.is_used or (self.access.read_ahead == "whole" and self.size <= FINISHED_BYTES)
        part.drop(is_finished=is_wanted and self.opened_with.cache != "none")

    def clear(self) -> None:
        while self.parts:
            self.drop_first()

    def under(self, access: Access) -> None:
        if access != self.access:
            self.access, self.ahead = access, self.ahead.under(access)


@dataclass
class _Watched:
    """A folder, as one process sees it."""

    observed: Observed = field(default_factory=Observed)
    events: int = 0
    told_at: int = 0
    told_s: float = -inf
    learned_s: float = -inf


class _Reader:
    """A process that replays its events."""

    def __init__(self, simulation: _Simulation, name: str) -> None:
        self._all, self._world, self._loop = simulation, simulation.world, simulation.loop
        self._name = name
        self._files: dict[str, _File] = {}
        self._versions: dict[str, float] = {}
        self._watched: dict[str, _Watched] = {}
        self._named: dict[str, str] = {}
        self._fetcher = _Fetcher(self._loop, self._access("x").connections)

    def begin(self, events: Sequence[Event]) -> None:
        self._loop.spawn(self._replay(events))

    def _replay(self, events: Sequence[Event]) -> Steps:
        before_s = 0.0
        for group in grouped(events):
            event = group[0]
            yield max(0.0, event.at_s - before_s)
            before_s, began_s = event.at_s, self._loop.now
            yield self._world.call_s
            if event.kind == "open":
                yield from self._open(event)
            elif event.kind == "read":
                yield from self._read(event)
            elif event.kind == "vector":
                yield from self._ranges(group)
            elif event.kind == "whole":
                yield from self._wholes(group)
            elif event.kind == "close":
                if closed := self._files.pop(event.path, None):
                    closed.clear()
            else:
                self._tell(event)
            self._all.cost.waited_s += self._loop.now - began_s
        for file in self._files.values():
            file.clear()

    # what profile

    def _access(self, path: str) -> Access:
        name = self._all.profile
        if name == "auto":
            choice = choose(path, BUILT_IN)
            if choice.source == "nothing":
                folder = folder_of(path)
                watched = self._folder(folder)
                if self._loop.now - watched.learned_s >= EVERY_S:
                    watched.learned_s = self._loop.now
                    others = self._all.told[folder]
                    watched.observed.learn([others[name] for name in others if name != self._name])
                pattern = watched.observed.pattern()
                if pattern is None:
                    return _ACCESS[choice.profile.name]
                if self._named.get(folder) != pattern.name:
                    self._named[folder] = pattern.name
                    now = f"{self._loop.now:.3f} s, {self._name}"
                    self._all.cost.switches.append(f"{now}: {folder} {pattern.profile} ({pattern.name})")
                return replace(_ACCESS[pattern.profile], **cast("Any", dict(pattern.values)))
            name = choice.profile.name
        return _ACCESS[name]

    def _folder(self, folder: str) -> _Watched:
        return self._watched.setdefault(folder, _Watched())

    def _tell(self, event: Event) -> None:
        """See observing.Observing."""
        if self._all.profile != "auto" or choose(event.path, BUILT_IN).source != "nothing":
            return
        folder, now = folder_of(event.path), self._loop.now
        watched = self._folder(folder)
        size = 0 if event.kind == "vector" else event.size  # who asks for ranges is not told the size
        watched.observed.tell(replace(event, at_s=now, size=size))
        watched.events += 1
        is_due = watched.events >= 2 * watched.told_at or now - watched.told_s >= EVERY_S
        if watched.events >= WORTH_TELLING and is_due:
            watched.told_at, watched.told_s = watched.events, now
            self._all.told[folder][self._name] = watched.observed.seen(self._name, now)

    # what is done

    def _first(self, path: str, size: int, access: Access, length: int = HEAD_BYTES) -> Steps:
        """Ask what an object is, unless that is known; returns how many of its first bytes came with the answer."""
        now, is_cached = self._loop.now, access.cache != "none"
        if is_cached:
            yield self._world.look_up_s
        if now - self._versions.get(path, -inf) < access.freshness_s:
            return 0
        if is_cached and access.freshness_s > 0:
            asked_s = self._all.asked_s.get(path)
            if asked_s is not None and asked_s >= now - access.freshness_s:
                return 0
        head = min(length, size)
        is_held = is_cached and path in self._all.asked_s and not self._all.missing(path, size, 0, head)
        yield from self._request(1 if is_held else head)
        self._versions[path] = self._loop.now
        if is_cached:
            yield self._world.remembered_s
            self._all.asked_s[path] = self._loop.now
        if is_held:
            return 0
        if is_cached:
            yield head / self._world.kept
            self._all.keep(path, size, 0, head)
        return head

    def _open(self, event: Event) -> Steps:
        before = self._files.pop(event.path, None)
        if before is not None:
            before.clear()
        access = self._access(event.path)
        head = yield from self._first(event.path, event.size, access)
        self._files[event.path] = _File(event.path, event.size, head, access)
        self._tell(event)

    def _read(self, event: Event) -> Steps:
        file = self._files.get(event.path)
        if file is None:
            yield from self._open(Event(event.at_s, "open", event.path, event.size, process=event.process))
            file = self._files[event.path]
        position, end = event.start, min(event.start + event.length, event.size)
        at = position if position >= file.head else min(end, file.head)
        if file.holding(at) is None and self._is_at_hand(file, at, end):
            file.ahead.read(position, end - position)
            yield (end - at) / self._world.cached
            at = end
        else:
            self._ahead_of(file, position, end, at)
        yield (end - position) / self._world.copied
        while at < end:
            part = file.holding(at)
            if part is None:
                upto = min(end, file.parts[0].start) if file.parts and file.parts[0].start > at else end
                yield from self._direct(file, at, upto)
                at = upto
            else:
                upto = min(end, part.end)
                yield from part.wait_for(upto - part.start)
                at = upto
        while file.parts and file.parts[0].end <= end:
            file.drop_first()
        file.reads += 1
        self._tell(event)
        if self._all.profile == "auto" and is_worth_a_look(file.reads):
            file.under(replace(self._access(event.path), part_bytes=file.opened_with.part_bytes))

    def _ahead_of(self, file: _File, position: int, end: int, missing_from: int) -> None:
        until = file.ahead.read(position, end - position)
        if file.ahead.is_random:
            file.clear()
            return
        if file.holding(missing_from) is None:
            file.clear()
            if until <= end:
                return
            if missing_from < end - 2 * file.access.part_bytes:
                missing_from = end // EDGE_BYTES * EDGE_BYTES
        if until > missing_from:
            self._extend(file, missing_from, until)

    def _extend(self, file: _File, start: int, end: int) -> None:
        """See reading.window.Window; its parts keep the size that the file was opened with."""
        part_bytes = file.opened_with.part_bytes
        if not file.parts:
            for first, last in spread(start, end, part_bytes, AT_ONCE):
                self._fetch(file, first, last)
            return
        begin = file.parts[-1].end
        while begin < end:
            last = min(part_end(begin, part_bytes), file.size)
            if last > end:
                return
            self._fetch(file, begin, last)
            begin = last

    def _fetch(self, file: _File, start: int, end: int) -> None:
        part = _Part(start, end)
        is_ahead = bool(file.parts)
        file.parts.append(part)
        self._fetcher.submit(self._fill_part(file, part), is_ahead=is_ahead)

    def _fill_part(self, file: _File, part: _Part) -> Steps:
        got = 0
        if not part.is_dropped:
            got = yield from self._source(file, part.start, part.end, part)
        part.is_over = True
        part.tell(part.end - part.start)
        return got

    def _direct(self, file: _File, at: int, end: int, beside: int = 1) -> Steps:
        pieces = spread(at, end, file.access.part_bytes, max(1, file.access.connections // beside))
        if len(pieces) == 1:
            yield from self._source(file, at, end)
            return
        yield from [self._fetcher.submit(self._source(file, start, stop)) for start, stop in pieces]

    def _ranges(self, group: Sequence[Event]) -> Steps:
        by_path: defaultdict[str, list[Event]] = defaultdict(list)
        for event in group:
            by_path[event.path].append(event)
            self._tell(event)
        under_way: list[_Signal] = []
        for path, events in by_path.items():
            access = self._access(path)
            size = events[0].size
            yield from self._first(path, size, access, 1)
            file = _File(path, size, 0, access)
            bounds = [(event.start, min(event.start + event.length, size)) for event in events]
            for request in coalesced(bounds, gap_bytes=access.gap_bytes, most_bytes=access.part_bytes):
                under_way.append(self._fetcher.submit(self._source(file, request.start, request.end)))
        yield from under_way
        yield sum(event.length for event in group) / self._world.copied

    def _wholes(self, group: Sequence[Event]) -> Steps:
        if len(group) == 1:
            yield from self._whole(group[0], 1)
        else:
            yield from [self._fetcher.submit(self._whole(event, len(group))) for event in group]
        for event in group:
            self._tell(event)

    def _whole(self, event: Event, beside: int) -> Steps:
        access = self._access(event.path)
        head = yield from self._first(event.path, event.size, access)
        if head < event.size:
            file = _File(event.path, event.size, head, access)
            if not head and self._is_at_hand(file, 0, event.size):
                yield event.size / self._world.cached
            else:
                yield from self._direct(file, head, event.size, beside)
        return event.size

    # where bytes come from

    def _is_at_hand(self, file: _File, start: int, end: int) -> bool:
        if file.opened_with.cache == "none" or start >= end:
            return start >= end
        return not self._all.missing(file.path, file.size, start, end)

    def _request(self, length: int, part: _Part | None = None, told: float = 0.0) -> Steps:
        """One request; how far it is, is told to the part it is for."""
        self._all.cost.requests += 1
        yield self._world.first_byte_s + self._world.request_s
        if part is not None and part.is_dropped:
            return 0
        flow = _Transfer(self._loop, length)
        if part is not None:
            part.tell(told, flow)
        yield flow.over
        self._all.cost.fetched_bytes += int(flow.came)
        return length

    def _source(self, file: _File, start: int, end: int, part: _Part | None = None) -> Steps:
        if file.opened_with.cache == "none":
            return (yield from self._request(end - start, part))
        return (yield from self._fill(file, start, end, part, 0.0))

    def _fill(self, file: _File, start: int, end: int, part: _Part | None, told: float) -> Steps:
        """See caching.through.CachedSource."""
        at, got = start, 0
        runs = self._all.missing(file.path, file.size, start, end, file.opened_with.gap_bytes)
        for begin, stop in [*runs, (end, end)]:
            if at < begin:
                yield (begin - at) / self._world.cached
                at = begin
            until = min(stop, end)
            if part is not None:
                part.tell(told + at - start)
                if part.is_dropped:
                    return got
            if at < until:
                got += yield from self._bring(file, begin, stop, at, until, part, told + at - start)
                at = until
        return got

    def _bring(self, file: _File, begin: int, stop: int, at: int, until: int, part: _Part | None, told: float) -> Steps:
        flights = self._all.flights[file.path]
        while others := [over for a, b, over in flights if a < stop and begin < b]:
            yield others[0]
            yield 0.005  # it is looked for now and then
        runs = self._all.missing(file.path, file.size, begin, stop, file.opened_with.gap_bytes)
        if runs != [(begin, stop)]:
            return (yield from self._fill(file, at, until, part, told))
        first, last = blocks_around(begin, stop)
        flight = (first * BLOCK_BYTES, last * BLOCK_BYTES, _Signal())
        flights.append(flight)
        yield from self._request(stop - begin, part, told - (at - begin))
        came = stop - begin
        if part is not None and part.is_dropped:
            came = int(part.flow.came) if part.flow is not None else 0
        yield came / self._world.kept
        self._all.keep(file.path, file.size, begin, begin + came)
        flights.remove(flight)
        flight[2].fire()
        return stop - begin


def _wanted_bytes(trace: Sequence[Event]) -> int:
    by_path: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for event in trace:
        if event.kind in ("read", "vector", "whole"):
            by_path[event.path].append((event.start, min(event.start + event.length, event.size)))
    found = 0
    for ranges in by_path.values():
        reached = 0
        for start, end in sorted(ranges):
            found += max(0, end - max(start, reached))
            reached = max(reached, end)
    return found


_ACCESS = {name: Access.of({value.name: value.value for value in profile}) for name, profile in BUILT_IN.items()}
