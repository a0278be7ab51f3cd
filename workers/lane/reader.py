"""What workers read: the strictest word of all sources of a pool on this host."""

from __future__ import annotations

import logging
import math
import mmap
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...storage.errors import LaneError
from .page import Page, map_page
from .place import LanePlace, boot_id, owner_lives
from .reading import NO_FIGURES, Figures, Reading, strictest
from .record import SIZE, Header, Word, unpack_header
from .verdict import MISSED_BEATS, NS, Verdict, judge, title, unreadable

log = logging.getLogger(__name__)

_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class SourceState:
    """One source as a reader sees it; for people.

    Attributes:
        reading: None for one that counts no more.
        heard_s: seconds since it was last heard.
    """

    name: str
    device: str
    pid: int
    reading: Reading | None
    heard_s: float
    figures: Figures


@dataclass(slots=True)
class _Seen:
    """A map as we have it open."""

    path: Path
    inode: int
    memory: mmap.mmap | None
    page: Page | None
    header: Header | None
    problem: str
    since: float
    was_lost: bool = False

    @property
    def name(self) -> str:
        return title(self.header) if self.header else self.path.stem


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The combined reading, and what it rests on: unchanged until one of these has changed."""

    reading: Reading
    good_until: float
    roster: int
    pages: Sequence[tuple[Page, int]]


class LaneReader:
    """Follows the sources of a pool on this host; any thread may ask. A read costs about half a microsecond.

    Args:
        device: the worker's accelerator: sources of other devices are overlooked; "" heeds all.
        signal_loss_timeout_s: how long a source that fell silent without goodbye is taken for a hold.
        on_lost: called with the source's name each time one is lost; by default it is logged.

    Raises:
        LaneError: the maps' folder can't be made or read.
    """

    def __init__(
        self,
        place: LanePlace,
        pool: str,
        *,
        device: str = "",
        signal_loss_timeout_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        self._pool = place.pool(pool)
        self._device = device
        self._timeout_s = signal_loss_timeout_s
        self._clock = clock
        self._on_lost = on_lost or log_loss
        self._boot = boot_id()
        self._lock = threading.Lock()
        self._seen: list[_Seen] = []
        self._look_at = -math.inf
        self._roster_inode = -1
        self._scanned = -1
        self._roster: memoryview[int]
        self.losses = 0
        """How often a source was lost."""
        with self._lock:
            self._open_roster()
            self._snapshot = self._look()

    def reading(self) -> Reading:
        """The lane now."""
        known = self._snapshot
        if self._clock() < known.good_until and self._roster[0] == known.roster:
            for page, sequence in known.pages:
                if page.sequence != sequence:
                    break
            else:
                return known.reading
        with self._lock:
            try:
                self._snapshot = known = self._look()
            except LaneError as error:
                # Nobody knows now what sources there are: fail closed, and look again at the next call.
                return Reading("hold", 0.0, str(error), "lane", self._clock(), is_lost=True)
        return known.reading

    def sources(self) -> list[SourceState]:
        """All sources, for people."""
        with self._lock:
            self._look()
            return [self._state(seen) for seen in self._seen]

    # -- inside ------------------------------------------------------------------------------------------

    def _look(self) -> _Snapshot:
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + _LOOK_S
            self._reopen_roster()
        roster = self._roster[0]
        if roster != self._scanned:
            self._scan(now)
            self._scanned = roster
        pages: list[tuple[Page, int]] = []
        verdicts: list[Verdict] = []
        for seen in self._seen:
            verdict, sequence = self._judge(seen, now)
            verdicts.append(verdict)
            if seen.page is not None:
                pages.append((seen.page, sequence))
            self._note_loss(seen, verdict)
        reading = strictest(v.reading for v in verdicts if v.reading is not None)
        good_until = min((v.good_until for v in verdicts), default=math.inf)
        return _Snapshot(reading, min(good_until, self._look_at), roster, pages)

    def _judge(self, seen: _Seen, now: float) -> tuple[Verdict, int]:
        sequence, word = (0, None) if seen.page is None else seen.page.read()
        if seen.header is not None and seen.page is not None:
            if word is not None:
                dismissed = seen.page.dismissed == sequence
                verdict = judge(seen.header, word, now=now, dismissed=dismissed, signal_loss_timeout_s=self._timeout_s)
                return verdict, sequence
            if sequence in (0, seen.page.dismissed):
                return Verdict(None), sequence
        problem = seen.problem or "its last word is damaged"
        lives = owner_lives(seen.path)
        return unreadable(
            seen.name, problem, owner_lives=lives, seen=seen.since, now=now, timeout_s=self._timeout_s
        ), sequence

    def _note_loss(self, seen: _Seen, verdict: Verdict) -> None:
        is_lost = verdict.reading is not None and verdict.reading.is_lost
        if is_lost and not seen.was_lost:
            self.losses += 1
            self._on_lost(seen.name)
        seen.was_lost = is_lost

    def _state(self, seen: _Seen) -> SourceState:
        now = self._clock()
        verdict, _ = self._judge(seen, now)
        word: Word | None = seen.page.read()[1] if seen.page else None
        header = seen.header
        return SourceState(
            seen.name,
            header.device if header else "",
            header.pid if header else 0,
            verdict.reading,
            now - word.beat_ns / NS if word else math.inf,
            word.figures if word else NO_FIGURES,
        )

    def _scan(self, now: float) -> None:
        known = {(seen.path, seen.inode): seen for seen in self._seen}
        found: list[_Seen] = []
        for path in self._pool.maps():
            seen = self._open(path, known, now)
            if seen is not None and self._is_ours(seen):
                found.append(seen)
        self._seen = found

    def _is_ours(self, seen: _Seen) -> bool:
        header = seen.header
        if header is None:
            return True
        if header.boot != self._boot:
            return False  # of the host's last life, when its maps were not on a RAM disk
        return not header.device or not self._device or header.device == self._device

    def _open(self, path: Path, known: dict[tuple[Path, int], _Seen], now: float) -> _Seen | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            return _Seen(path, 0, None, None, None, error.strerror or str(error), now)
        try:
            found = os.fstat(descriptor)
            if (seen := known.get((path, found.st_ino))) is not None:
                return seen
            if found.st_size != SIZE:
                problem = f"it has {found.st_size} bytes instead of {SIZE}"
                return _Seen(path, found.st_ino, None, None, None, problem, now)
            memory, page = map_page(descriptor)
        finally:
            os.close(descriptor)
        header = unpack_header(memory[:])
        if isinstance(header, str):
            return _Seen(path, found.st_ino, memory, None, None, header, now)
        return _Seen(path, found.st_ino, memory, page, header, "", now)

    def _reopen_roster(self) -> None:
        """Follow a roster that was removed and made anew, or our sources would be somebody else's."""
        try:
            if self._pool.roster.stat().st_ino == self._roster_inode:
                return
        except FileNotFoundError:
            self._pool.make()
        log.warning("the lane folder %s was made anew", self._pool.folder)
        self._open_roster()
        self._seen, self._scanned = [], -1

    def _open_roster(self) -> None:
        descriptor = os.open(self._pool.roster, os.O_RDWR)
        try:
            self._roster_inode = os.fstat(descriptor).st_ino
            self._roster = memoryview(mmap.mmap(descriptor, SIZE, access=mmap.ACCESS_READ)).cast("Q")
        finally:
            os.close(descriptor)


def log_loss(name: str) -> None:
    """Say that a source is lost, and what can be done."""
    log.warning(
        "lane source %s fell silent without goodbye: batch work holds until it returns, "
        "`holdshort lane dismiss %s` is said, or the pool's signal_loss_timeout_s has passed",
        name,
        name,
    )


@dataclass(frozen=True, slots=True)
class Dismissal:
    """What `dismiss` found under a name: sources that are overlooked from now on, and such as still beat."""

    dismissed: int
    alive: int


def dismiss(place: LanePlace, pool: str, name: str) -> Dismissal:
    """Let the workers of this host overlook those sources of a name that are silent. Raises LaneError."""
    dismissed = alive = 0
    at = place.pool(pool)
    with at.changing():
        for path in at.maps():
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            try:
                if os.fstat(descriptor).st_size != SIZE:
                    header, page = "too short", None
                else:
                    memory, page = map_page(descriptor, write=True)
                    header = unpack_header(memory[:])
            finally:
                os.close(descriptor)
            if isinstance(header, str) or page is None:
                if name not in (path.stem, path.stem.rpartition(".")[0]):
                    continue
                beats = owner_lives(path)
                if not beats:
                    path.unlink()
            elif name in (header.name, title(header)):
                sequence, word = page.read()
                silent_at = 0 if word is None else word.beat_ns + MISSED_BEATS * header.beat_ns
                beats = time.monotonic_ns() < silent_at
                if not beats:
                    page.dismiss(sequence)
            else:
                continue
            alive += beats
            dismissed += not beats
    return Dismissal(dismissed, alive)
