"""What is seen of how objects are used, by this process and by others, and the profile that follows from it."""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..profiles import Choice, Profile
from ..profiles.access import MIB
from ..profiles.pattern import Event, Kind, Observed, folder_of
from .caching.opening import store_name
from .patterns import Patterns

log = logging.getLogger(__name__)

_KEPT_FOLDERS = 1024
EVERY_S = 5.0
WORTH_TELLING = 8
"""Of fewer events nobody else learns anything."""
_TOGETHER_BYTES, _TOGETHER_S = 16 * MIB, 1.0
_PADDING_BYTES = 512
"""So much may lie between two reads that follow each other: the members of a tar archive begin at multiples of it."""
_FIRST_READS = 8


def is_worth_a_look(reads: int) -> bool:
    """Whether to see after so many reads of a file if another profile fits it: that takes a while, and the first few
    reads say most; then each time that there were twice as many.
    """
    return reads <= _FIRST_READS or reads & (reads - 1) == 0


@dataclass(slots=True)
class _Folder:
    observed: Observed = field(default_factory=Observed)
    chosen: str = ""
    events: int = 0
    told_at: int = 0
    told_s: float = 0.0
    learned_s: float = 0.0


class Observing:
    """Watches folders, and says which profile fits what happened there. Thread-safe, and safe in forked children.

    Args:
        patterns: what other processes have seen, if that can be known.
        every_s: so often it is looked what others tell, and told what was seen, at most.
    """

    def __init__(
        self, known: Mapping[str, Profile], patterns: Patterns | None = None, *, every_s: float = EVERY_S
    ) -> None:
        self._every_s = every_s
        self._known = known
        self._patterns = patterns
        self._folders: OrderedDict[str, _Folder] = OrderedDict()
        self._begin()

    def tell(
        self,
        kind: Kind,
        path: str,
        *,
        size: int = 0,
        start: int = 0,
        length: int = 0,
        tag: str = "",
        reads: int = 1,
        now_s: float | None = None,
    ) -> None:
        """Something happened to an object, at so many seconds since the epoch; what was asked for at once has one."""
        self._check_process()
        name, now_s = folder_of(path), time.time() if now_s is None else now_s
        event = Event(now_s, kind, path, size, start, length, self._process, tag, reads)
        told = None
        with self._lock:
            folder = self._folder(name)
            folder.observed.tell(event)
            folder.events += reads
            # As soon as there is twice as much to tell, then every few seconds.
            is_due = folder.events >= 2 * folder.told_at or now_s - folder.told_s >= self._every_s
            if self._patterns is not None and folder.events >= WORTH_TELLING and is_due:
                folder.told_at, folder.told_s = folder.events, now_s
                told = folder.observed.seen(self._process, now_s)
        if told is not None and self._patterns is not None:
            self._patterns.tell(name, told)

    def choice(self, path: str) -> Choice | None:
        """The profile for an object by what happened in its folder; None as long as it could be anything."""
        self._check_process()
        name = folder_of(path)
        self._learn(name)
        with self._lock:
            folder = self._folder(name)
            pattern = folder.observed.pattern()
            if pattern is None:
                return None
            choice = pattern.choice(self._known)
            is_news, folder.chosen = folder.chosen != pattern.name, pattern.name
        if is_news:
            log.info("%s is read by the profile %s from now on: %s", name or path, choice.profile.name, choice.why)
        return choice

    # -- inside ------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._process = f"{self._pid}-{secrets.token_hex(4)}"
        self._lock = threading.Lock()

    def _check_process(self) -> None:
        if self._pid != os.getpid():  # the parent tells what it has seen, and its lock may be held for ever here
            self._begin()
            if self._patterns is not None:
                self._folders = OrderedDict()

    def _learn(self, name: str) -> None:
        """What others have told, now and then."""
        if self._patterns is None:
            return
        now_s = time.time()
        with self._lock:
            folder = self._folder(name)
            if now_s - folder.learned_s < self._every_s:
                return
            folder.learned_s = now_s
        seen = self._patterns.others(name, self._process)
        with self._lock:
            folder.observed.learn(seen)

    def _folder(self, name: str) -> _Folder:
        found = self._folders.get(name)
        if found is None:
            found = self._folders[name] = _Folder()
            if len(self._folders) > _KEPT_FOLDERS:
                self._folders.popitem(last=False)
        else:
            self._folders.move_to_end(name)
        return found


class Reads:
    """Tells of one open file's reads. To tell of one takes as long as a small one, so those in order are told together.

    Threads may read at once. It has no lock, which a child that is forked meanwhile would find held for ever.
    """

    def __init__(self, observing: Observing, path: str, size: int) -> None:
        self._observing = observing
        self._path = path
        self._size = size
        self._runs: list[tuple[int, int, int, float]] = []
        """Not told yet, at most one for each thread: where it begins and ends, how many reads it was by, since when."""

    def read(self, start: int, length: int, *, is_told: bool) -> None:
        """There was a read.

        Args:
            is_told: at once.
        """
        run, now_s = self._taken(), time.monotonic()
        if run is not None and 0 <= start - run[1] <= _PADDING_BYTES:
            run = run[0], start + length, run[2] + 1, run[3]
        else:
            self._tell(run)
            run = start, start + length, 1, now_s
        self._runs.append(run)
        if is_told or run[1] - run[0] >= _TOGETHER_BYTES or now_s - run[3] >= _TOGETHER_S:
            self.close()

    def close(self) -> None:
        """Tell of what was not told yet."""
        while (run := self._taken()) is not None:
            self._tell(run)

    def _taken(self) -> tuple[int, int, int, float] | None:
        """One that is nobody else's from now on."""
        try:
            return self._runs.pop()
        except IndexError:
            return None

    def _tell(self, run: tuple[int, int, int, float] | None) -> None:
        if run is not None:
            start, end, reads, _ = run
            self._observing.tell("read", self._path, size=self._size, start=start, length=end - start, reads=reads)


def observing_for(fs: Any, known: Mapping[str, Profile]) -> Observing:
    """For a file system; what is on this machine alone, or in one process's memory, is watched by that process only."""
    store = store_name(fs)
    return Observing(known, Patterns(store) if store else None)
