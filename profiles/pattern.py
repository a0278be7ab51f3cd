"""Which profile fits what was seen: how the objects of a folder are used, by this process and by others. Pure.

One open file tells little: a header that is read once looks the same in a data set, in weights and in a checkpoint.
What tells them apart is what happens to its siblings, how often an object comes back, and who else reads it.

Two conclusions come from it, each by itself. How objects are read (whole, at random, from the end …) is told by few
reads, and may set single values. Whether they come back, or many read the same, decides about the profile: only that
allows to take an object for what it was without asking the store each time. So it is concluded from objects that
were asked for again and had not changed, and no more as soon as one has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from .access import MIB
from .profile import Profile, Value
from .rules import Choice

Kind = Literal["open", "read", "close", "vector", "whole", "write", "append"]

_KEPT_OBJECTS = 4096
_KEPT_MARKS = 64
_SMALL_BYTES = 1 * MIB
_NEAR_BYTES = 1 * MIB
"""A jump no longer than this forwards is still reading in order."""
_TENSOR_BYTES = MIB // 4
_LARGE_BYTES = 32 * MIB
_ENOUGH_READS = 6
_ENOUGH_OBJECTS = 8
_AGAIN_SHARE, _AGAIN_BYTES = 0.02, 8 * MIB
"""A few small files that are read again and again are probably looked at for news."""
_ASKED_TIMES = 4
"""So often an object was asked for, and was the same: then it will be the next time. Or so often one of several that
are used alike was asked for again, after others; twice in a row is how some libraries open a file."""
_MOSTLY = 0.5
_IN_ORDER = "in order"
_WHOLE = 0.9
_FINE_BYTES = MIB // 2
_RENT_BYTES = 10_800_000
"""What three connections move while a request waits for its first byte (40 ms, 90 MB/s): an object that is fetched
whole comes by sixteen at once, but most of it may not be wanted.
"""
_BUY_BYTES = 64 * MIB


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an object.

    Attributes:
        at_s: seconds of a clock that all processes share.
        kind: "vector" is one of many ranges that were asked for at once, "whole" an object that was not opened for it.
        size: of the object, in bytes; 0: not known.
        process: who; ranks of a job and workers of a loader differ.
        tag: what changes when the object does; "": not known.
        reads: how many, one after another, if they are told together.
    """

    at_s: float
    kind: Kind
    path: str
    size: int = 0
    start: int = 0
    length: int = 0
    process: str = ""
    tag: str = ""
    reads: int = 1


@dataclass(frozen=True, slots=True)
class Mark:
    """What a process did to one object, for others.

    Attributes:
        key: of its path.
        tag: of its content's tag; 0: not known.
    """

    key: int
    tag: int
    size: int
    read_bytes: int
    first_s: float
    last_s: float

    @property
    def is_mostly_read(self) -> bool:
        return 0 < self.size * _MOSTLY <= self.read_bytes


@dataclass(frozen=True, slots=True)
class Pattern:
    """A way of using objects.

    Attributes:
        name: for people.
        profile: which one fits it.
        signals: what it was told by.
        values: of the profile that are others for it.
    """

    name: str
    profile: str
    signals: tuple[str, ...]
    values: tuple[tuple[str, str | int], ...] = ()

    @property
    def comes_back(self) -> bool:
        """Whether objects may be taken for what they were."""
        return self.profile in ("training", "serving")

    def choice(self, known: Mapping[str, Profile]) -> Choice:
        """The profile for it. Raises KeyError if it is not known."""
        why = f"{self.name}: {'; '.join(self.signals)}"
        return Choice(known[self.profile], "pattern", why, tuple(Value(*each, self.name) for each in self.values))


@dataclass(frozen=True, slots=True)
class Seen:
    """What one process has seen of a folder, for others; bounded.

    Attributes:
        at_s: when it was written down, on the clock of the events.
        pattern: what it concluded by itself.
        has_changed: whether an object became another one.
        marks: of the objects with the smallest keys, so that all processes tell of the same ones.
    """

    process: str
    at_s: float
    pattern: Pattern | None
    has_changed: bool
    marks: tuple[Mark, ...]


_NOTHING = (0,) * 12


@dataclass(slots=True)
class _Object:
    key: int
    tag: int = 0
    size: int = 0
    opens: int = 0
    returns: int = 0
    reads: int = 0
    read_bytes: int = 0
    first: tuple[int, int] | None = None
    next: int | None = None
    first_s: float = 0.0
    last_s: float = 0.0
    ranges_s: float = -1.0
    reach: int = 0
    others: list[Mark] = field(default_factory=list[Mark])
    counted: tuple[int, ...] = _NOTHING
    """Its traits, as they were counted last."""

    @property
    def extent(self) -> int:
        """Its size; as long as that is not known, how far reads have got."""
        return self.size or self.reach

    @property
    def passes(self) -> float:
        """How often its bytes were read, on average."""
        return self.read_bytes / self.size if self.size else 0.0

    @property
    def is_again(self) -> bool:
        if self.passes >= 1.5 or (self.opens > 1 and self.passes > 1):
            return True
        if self.opens >= _ASKED_TIMES:
            return True
        return self.reads > 0 and any(other.last_s <= self.first_s for other in self.others)

    @property
    def is_shared(self) -> bool:
        """Whether somebody else reads most of it too, at the same time."""
        return self.passes >= _MOSTLY and any(
            other.first_s <= self.last_s and self.first_s <= other.last_s for other in self.others
        )

    @property
    def is_headed(self) -> bool:
        """Whether the first read was at 0, and far smaller than those after it."""
        if self.first is None or self.first[0] != 0 or self.reads < 3 or self.size < _LARGE_BYTES:
            return False
        rest = (self.read_bytes - self.first[1]) / (self.reads - 1)
        return self.first[1] * 4 <= rest and rest >= _TENSOR_BYTES

    @property
    def is_from_end(self) -> bool:
        first = self.first
        return first is not None and self.size > 64 * 1024 and first[0] > 0 and sum(first) >= self.size

    def traits(self) -> tuple[int, ...]:
        """As Tally counts them; nothing as long as it was not read."""
        if not self.reads:
            return _NOTHING
        again, shared, whole = self.is_again, self.is_shared, self.passes >= _WHOLE
        return (
            1, self.extent, whole, whole and self.size <= _SMALL_BYTES, self.is_from_end, self.is_headed,
            again, self.extent if again else 0, self.returns, self.extent if self.returns else 0,
            shared, shared and self.size >= _LARGE_BYTES,
        )  # fmt: skip


@dataclass(slots=True)
class _Tally:
    """How many of the objects that were read are what."""

    objects: int = 0
    object_bytes: int = 0
    whole: int = 0
    small: int = 0
    from_end: int = 0
    headed: int = 0
    again: int = 0
    again_bytes: int = 0
    returns: int = 0
    returned_bytes: int = 0
    shared: int = 0
    shared_large: int = 0

    def count(self, found: _Object) -> None:
        """As it is now, instead of as it was counted before."""
        self._become(found, found.traits())

    def discount(self, found: _Object) -> None:
        """It is not watched any more."""
        self._become(found, _NOTHING)

    def _become(self, found: _Object, now: tuple[int, ...]) -> None:
        before, found.counted = found.counted, now
        if before != now:
            for name, was, is_now in zip(self.__slots__, before, now, strict=True):
                setattr(self, name, getattr(self, name) + is_now - was)


class Observed:
    """What was seen of one folder's objects by one process; as much as fits into a fixed memory.

    Of more objects than that those with the smallest keys are watched: the same ones in every epoch.
    """

    def __init__(self) -> None:
        self._objects: dict[int, _Object] = {}
        self._below = 1 << 64
        self._tally = _Tally()
        self._opens = self._reads = self._in_order = self._jumps = self._vectors = self._read_bytes = 0
        self._written = self._appended = 0
        self._last_opened = -1
        self._has_changed = False
        self._others: dict[str, Seen] = {}
        self._settled: Pattern | None = None
        self._settled_at = 0

    def tell(self, event: Event) -> None:
        """Something happened."""
        key = _key(event.path)
        if event.kind == "close":
            return
        if event.kind in ("write", "append"):
            self._written += event.kind == "write"
            self._appended += event.kind == "append"
            if key in self._objects and self._objects[key].reads:
                self._has_changed = True
            return
        if key >= self._below:
            return
        found = self._objects.get(key)
        if found is None:
            found = self._objects[key] = _Object(key, first_s=event.at_s)
            found.others = [
                mark for seen in self._others.values() for mark in seen.marks if mark.key == key and mark.is_mostly_read
            ]
            self._make_room()
        self._add(found, event)
        if key in self._objects:
            self._tally.count(found)

    def learn(self, seen: Iterable[Seen]) -> None:
        """What other processes have told by now; it takes the place of what they told before."""
        self._others = {each.process: each for each in seen}
        by_key: dict[int, list[Mark]] = {}
        for each in self._others.values():
            for mark in each.marks:
                by_key.setdefault(mark.key, []).append(mark)
        for key, marks in by_key.items():
            found = self._objects.get(key)
            tags = {mark.tag for mark in marks} | {0 if found is None else found.tag}
            self._has_changed = self._has_changed or len(tags - {0}) > 1
            if found is not None:
                found.others = [mark for mark in marks if mark.is_mostly_read]
                self._tally.count(found)

    def seen(self, process: str, now_s: float) -> Seen:
        """What others may want to know."""
        keys = sorted(key for key, each in self._objects.items() if each.reads)[:_KEPT_MARKS]
        marks = tuple(
            Mark(key, each.tag, each.size, each.read_bytes, each.first_s, each.last_s)
            for key, each in ((key, self._objects[key]) for key in keys)
        )
        return Seen(process, now_s, self._own(), self._has_changed, marks)

    def pattern(self) -> Pattern | None:
        """What it looks like by now; None as long as it could be anything.

        It changes its mind only once there is twice as much to go by as the last time; at once where objects change.
        """
        found = self._look()
        if found is not None and (self._settled is None or found.name != self._settled.name):
            evidence = self._reads + self._written + self._appended
            if self._settled is not None and evidence < 2 * self._settled_at and not self._has_changed:
                return self._settled
            self._settled_at = evidence
        if found is not None:
            self._settled = found
        return self._settled

    # -- inside ------------------------------------------------------------------------------------------

    def _add(self, found: _Object, event: Event) -> None:
        self._has_changed = self._has_changed or (event.size > 0 and found.size not in (0, event.size))
        found.size = event.size or found.size
        found.last_s = max(found.last_s, event.at_s)
        if event.tag:
            tag = _key(event.tag)
            told = {mark.tag for mark in found.others} | {found.tag}
            self._has_changed = self._has_changed or bool(told - {tag, 0})
            found.tag = tag
        if event.kind in ("open", "whole") or (event.kind == "vector" and event.at_s != found.ranges_s):
            found.returns += found.opens > 0 and self._last_opened != found.key
            self._last_opened = found.key
            found.opens += 1
            self._opens += 1
            found.next = None
        if event.kind == "open":
            return
        self._reads += event.reads
        self._read_bytes += event.length
        found.reads += event.reads
        found.read_bytes += event.length
        found.reach = max(found.reach, event.start + event.length)
        if event.kind == "vector":
            self._vectors += 1
            found.ranges_s = event.at_s
            return
        if found.first is None:
            found.first = (event.start, event.length)
        is_near = found.next is not None and 0 <= event.start - found.next <= _NEAR_BYTES
        if is_near or event.start == 0:  # 0: once more from the beginning
            self._in_order += 1
        elif found.next is not None or event.start + event.length < found.size:
            self._jumps += 1
        self._in_order += event.reads - 1  # those after the first
        found.next = event.start + event.length

    def _make_room(self) -> None:
        while len(self._objects) > _KEPT_OBJECTS:
            self._below = sorted(self._objects)[_KEPT_OBJECTS // 2]
            for key in [key for key in self._objects if key >= self._below]:
                self._tally.discount(self._objects.pop(key))

    def _look(self) -> Pattern | None:
        if self._has_changed or any(seen.has_changed for seen in self._others.values()):
            return Pattern("objects that change", "plain", ("one of them became another while it was watched",))
        own = self._own()
        if own is not None and own.comes_back:
            return own
        told = sorted((seen for seen in self._others.values() if seen.pattern is not None), key=lambda seen: seen.at_s)
        theirs = next((seen.pattern for seen in reversed(told) if seen.pattern and seen.pattern.comes_back), None)
        if theirs is None and own is None and told:
            theirs = told[-1].pattern
        if theirs is None:
            return own
        values = theirs.values if own is None or own.name == _IN_ORDER else own.values
        return Pattern(theirs.name, theirs.profile, (*theirs.signals, "seen by another process"), values)

    def _own(self) -> Pattern | None:
        tally, written = self._tally, self._written + self._appended
        if written and not self._reads:
            kind = "append" if self._appended > self._written else "written once"
            return Pattern(kind, "checkpoint", (f"{written} objects written, none read",))
        how = self._how()
        if tally.shared_large and tally.shared >= tally.objects / 2:
            why = f"{tally.shared} of {tally.objects} objects were read by others too at the same time"
            return Pattern("one object, many readers", "serving", (why,))
        if tally.again >= max(1.0, tally.objects * _AGAIN_SHARE) and (
            tally.again >= _ENOUGH_OBJECTS or tally.again_bytes >= _AGAIN_BYTES
        ):
            return _again(f"{tally.again} of {tally.objects} objects came back, unchanged", how)
        if tally.returns >= _ASKED_TIMES and tally.returned_bytes >= _AGAIN_BYTES:
            return _again(f"{tally.returns} times one of {tally.objects} objects was asked for again, unchanged", how)
        return how

    def _how(self) -> Pattern | None:
        """How objects are read, whether or not they come back."""
        tally, reads, objects = self._tally, self._reads, self._tally.objects
        if not objects:
            return None
        if tally.small >= _ENOUGH_OBJECTS and tally.small >= objects * 0.8:
            return _way("many small objects", f"{tally.small} objects of at most 1 MiB were read whole")
        # The last one may still be under way.
        if tally.whole and tally.whole >= (objects - 1) * 0.8:
            why = f"{tally.whole} of {objects} objects were read whole"
            return _way("object after object", why, read_ahead="whole")
        jumps = f"{self._jumps} of {reads} reads jump"
        is_random = min(reads, 2 * self._jumps) >= _ENOUGH_READS and self._read_bytes <= self._jumps * _SMALL_BYTES
        rented = (self._jumps + self._opens) * _RENT_BYTES
        is_fine = is_random and self._read_bytes <= self._jumps * _FINE_BYTES
        if is_fine and tally.object_bytes <= min(objects * _BUY_BYTES, rented):
            why = f"{jumps}, and took longer than it takes to fetch the objects whole"
            return _way("at random all over", why, read_ahead="whole", gap_bytes=4 * MIB)
        if tally.from_end and tally.from_end >= objects / 2 and reads >= 3:
            return _way("footer, then ranges", f"{tally.from_end} of {objects} objects were read from their end")
        if is_random:
            return _way("small reads at random", jumps)
        if tally.headed and tally.headed >= objects / 2:
            why = f"{tally.headed} of {objects} objects: a small read at 0, then large ones"
            return _way("header, then tensors", why, read_ahead="whole", gap_bytes=4 * MIB)
        if reads >= _ENOUGH_READS and self._vectors >= reads / 2:
            return _way("many ranges at once", f"{self._vectors} of {reads} reads asked for many ranges")
        if reads >= _ENOUGH_READS and self._in_order >= reads * 0.8:
            return _way(_IN_ORDER, f"{self._in_order} of {reads} reads follow the one before")
        return None


def _way(name: str, why: str, **values: str | int) -> Pattern:
    return Pattern(name, "plain", (why,), tuple(values.items()))


def _again(why: str, how: Pattern | None) -> Pattern:
    name, signals, values = ("", (), ()) if how is None else (f"{how.name}, ", how.signals, how.values)
    return Pattern(f"{name}again and again", "training", (why, *signals), values)


@lru_cache(maxsize=4096)
def folder_of(path: str) -> str:
    """The folder whose objects are used alike: those inside it that are only numbers, or KEY=VALUE, belong to it."""
    folders = path.split("/")[:-1]
    while len(folders) > 1 and (folders[-1].isdecimal() or "=" in folders[-1]):
        folders.pop()
    return "/".join(folders)


@lru_cache(maxsize=4096)
def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())
