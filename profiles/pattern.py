"""Which profile fits what was seen: how the objects of a folder are used, by all processes that told us. Pure.

One open file tells little: a header that is read once looks the same in a data set, in weights and in a checkpoint.
What tells them apart is what happens to its siblings, how often an object comes back, and who else reads it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .access import MIB
from .profile import Profile
from .rules import Choice

Kind = Literal["open", "read", "vector", "write", "append"]

_KEPT_OBJECTS = 4096
_SMALL_BYTES = 1 * MIB
_NEAR_BYTES = 1 * MIB
"""A jump no longer than this forwards is still reading in order."""
_TENSOR_BYTES = MIB // 4
_LARGE_BYTES = 32 * MIB
_ENOUGH_READS = 6
_ENOUGH_OBJECTS = 8
_AGAIN_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an object.

    Attributes:
        at_s: seconds of any clock that goes on evenly.
        kind: "vector" is one of many ranges that were asked for at once.
        size: of the object, in bytes; for "write" and "append" of what was written.
        process: who; ranks of a job and workers of a loader differ.
    """

    at_s: float
    kind: Kind
    path: str
    size: int = 0
    start: int = 0
    length: int = 0
    process: str = ""


@dataclass(slots=True)
class _Object:
    size: int = 0
    opens: int = 0
    reads: int = 0
    in_order: int = 0
    jumps: int = 0
    vectors: int = 0
    read_bytes: int = 0
    first: tuple[int, int] | None = None
    next: dict[str, int] = field(default_factory=dict[str, int])
    by_process: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def passes(self) -> float:
        """How often its bytes were read, on average."""
        return self.read_bytes / self.size if self.size else 0.0


@dataclass(frozen=True, slots=True)
class Pattern:
    """A way of using objects.

    Attributes:
        name: for people.
        profile: which one fits it.
        signals: what it was told by.
    """

    name: str
    profile: str
    signals: tuple[str, ...]

    def choice(self, known: Mapping[str, Profile]) -> Choice:
        """The profile for it. Raises KeyError if it is not known."""
        return Choice(known[self.profile], "pattern", f"{self.name}: {'; '.join(self.signals)}")


class Observed:
    """What was seen of one folder's objects; as much as fits into a fixed memory."""

    def __init__(self) -> None:
        self._objects: OrderedDict[str, _Object] = OrderedDict()
        self._written = 0
        self._appended = 0

    def tell(self, event: Event) -> None:
        """Something happened."""
        if event.kind in ("write", "append"):
            self._written += event.kind == "write"
            self._appended += event.kind == "append"
            return
        found = self._objects.setdefault(event.path, _Object())
        self._objects.move_to_end(event.path)
        while len(self._objects) > _KEPT_OBJECTS:
            self._objects.popitem(last=False)
        found.size = event.size or found.size
        if event.kind == "open":
            found.opens += 1
            return
        found.reads += 1
        found.read_bytes += event.length
        found.by_process[event.process] = found.by_process.get(event.process, 0) + event.length
        if event.kind == "vector":
            found.vectors += 1
            return
        expected = found.next.get(event.process)
        if found.first is None:
            found.first = (event.start, event.length)
        if expected is None:
            found.in_order += event.start == 0
        elif 0 <= event.start - expected <= _NEAR_BYTES:
            found.in_order += 1
        elif event.start == 0:
            found.in_order += 1  # once more from the beginning
        else:
            found.jumps += 1
        found.next[event.process] = event.start + event.length

    def pattern(self) -> Pattern | None:
        """What it looks like by now; None as long as it could be anything."""
        if (self._written or self._appended) and not any(each.reads for each in self._objects.values()):
            kind = "append" if self._appended > self._written else "written once"
            return Pattern(kind, "checkpoint", (f"{self._written + self._appended} objects written, none read",))
        objects = [each for each in self._objects.values() if each.reads]
        reads = sum(each.reads for each in objects)
        if not objects:
            return None
        for look in (_shared, _again, _small, _random, _footers, _headers, _vectored, _in_order):
            found = look(objects, reads)
            if found is not None:
                return found
        return None


def _shared(objects: list[_Object], reads: int) -> Pattern | None:
    shared = [o for o in objects if sum(got >= o.size / 2 > 0 for got in o.by_process.values()) > 1]
    if not shared or len(shared) < len(objects) / 2 or max(o.size for o in shared) < _LARGE_BYTES:
        return None
    most = max(len(each.by_process) for each in shared)
    return Pattern("one object, many readers", "serving", (f"{most} processes read most of the same object",))


def _again(objects: list[_Object], reads: int) -> Pattern | None:
    again = sum(each.passes >= 1.5 or (each.opens > 1 and each.passes > 1) for each in objects)
    if again == 0 or again < len(objects) * _AGAIN_SHARE:
        return None
    in_order = sum(each.in_order for each in objects) >= reads / 2
    name = "in order, again and again" if in_order else "at random, again and again"
    return Pattern(name, "training", (f"{again} of {len(objects)} objects were read more than once",))


def _small(objects: list[_Object], reads: int) -> Pattern | None:
    small = sum(each.size <= _SMALL_BYTES and each.passes > 0.9 for each in objects)
    if small < _ENOUGH_OBJECTS or small < len(objects) * 0.8:
        return None
    return Pattern("many small objects", "training", (f"{small} objects of at most 1 MiB were read whole",))


def _footers(objects: list[_Object], reads: int) -> Pattern | None:
    at_end = sum(_began_at_end(each) for each in objects)
    if at_end == 0 or at_end < len(objects) / 2 or reads < 3:
        return None
    return Pattern("footer, then ranges", "training", (f"{at_end} of {len(objects)} objects were read from their end",))


def _headers(objects: list[_Object], reads: int) -> Pattern | None:
    headed = [each for each in objects if each.size >= _LARGE_BYTES and _began_with_header(each)]
    if not headed or len(headed) < len(objects) / 2:
        return None
    return Pattern("header, then tensors", "serving", (f"{len(headed)} objects: a small read at 0, then large ones",))


def _random(objects: list[_Object], reads: int) -> Pattern | None:
    jumps = sum(each.jumps for each in objects)
    read_bytes = sum(each.read_bytes for each in objects)
    if reads < _ENOUGH_READS or jumps < reads / 2 or read_bytes / reads > _SMALL_BYTES:
        return None
    return Pattern("small reads at random", "training", (f"{jumps} of {reads} reads jump",))


def _vectored(objects: list[_Object], reads: int) -> Pattern | None:
    vectors = sum(each.vectors for each in objects)
    if reads < _ENOUGH_READS or vectors < reads / 2:
        return None
    return Pattern("many ranges at once", "training", (f"{vectors} of {reads} reads asked for many ranges",))


def _in_order(objects: list[_Object], reads: int) -> Pattern | None:
    in_order = sum(each.in_order for each in objects)
    if reads < _ENOUGH_READS or in_order < reads * 0.8:
        return None
    return Pattern("in order, once", "checkpoint", (f"{in_order} of {reads} reads follow the one before",))


def _began_at_end(each: _Object) -> bool:
    return each.first is not None and each.size > 64 * 1024 and sum(each.first) >= each.size and each.first[0] > 0


def _began_with_header(each: _Object) -> bool:
    """Whether the first read was at 0, and far smaller than those after it."""
    if each.first is None or each.first[0] != 0 or each.reads < 3:
        return False
    rest = (each.read_bytes - each.first[1]) / (each.reads - 1)
    return each.first[1] * 4 <= rest and rest >= _TENSOR_BYTES
