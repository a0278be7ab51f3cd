"""What workers read: the strictest word of all sources of a pool on this host."""

from __future__ import annotations

import errno
import logging
import math
import mmap
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...storage.errors import LaneError
from .bell import Bell
from .page import Page, map_page
from .place import LanePlace, boot_id, explained, owner_lives
from .reading import NO_FIGURES, Figures, Reading, strictest
from .record import SIZE, Header, Word, unpack_header
from .verdict import NS, Verdict, judge, silent_at_s, title, unreadable

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""What says nothing of a map, but of this process or host at the moment."""


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
    """A map as we have it open.

    Attributes:
        page: None for one that can't be read because of its `problem`.
        since: monotonic seconds at which it was first met.
        was_removed: its file is gone without a goodbye; it counts for as long as its source still beats in it.
    """

    path: Path
    inode: int
    page: Page | None
    header: Header | None
    problem: str
    since: float
    was_lost: bool = False
    was_removed: bool = False

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
        on_lost: called with the source's name each time one is lost, in the thread that asked; by default it is logged.

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
        self._scanned = -1
        self._roster_is: os.stat_result
        self._bell: Bell
        self._roster: memoryview[int]
        self._newly_lost: list[str] = []
        self.losses = 0
        """How often a source was lost."""
        with self._lock:
            self._open_roster()
            self._snapshot = self._look()
        self._tell_losses()

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
        self._tell_losses()
        return known.reading

    @property
    def rung(self) -> int:
        """For `wait`; to be taken before the reading that may change."""
        return self._bell.rung

    def wait(self, rung: int, timeout_s: float) -> None:
        """Return when a source has changed its word since, or after so many seconds; now and then for nothing.

        A hold that ends by itself, and a source that falls silent, are no change.
        """
        self._bell.wait(rung, timeout_s)

    def sources(self) -> list[SourceState]:
        """All sources, for people."""
        with self._lock:
            self._look()
            states = [self._state(seen) for seen in self._seen if not seen.was_removed]
        self._tell_losses()
        return states

    # -- inside ------------------------------------------------------------------------------------------

    def _look(self) -> _Snapshot:
        now = self._clock()
        if now >= self._look_at:
            self._reopen_roster()
            if any(seen.was_lost for seen in self._seen):
                self._scanned = -1  # somebody may have removed the map by hand
            self._look_at = now + _LOOK_S
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
        if seen.header is not None and seen.page is not None and word is not None:
            dismissed = seen.was_removed or seen.page.dismissed == sequence
            verdict = judge(seen.header, word, now=now, dismissed=dismissed, signal_loss_timeout_s=self._timeout_s)
            return verdict, sequence
        problem = seen.problem or "its last word is damaged"
        lives = owner_lives(seen.path)
        return unreadable(
            seen.name, problem, owner_lives=lives, seen=seen.since, now=now, timeout_s=self._timeout_s
        ), sequence

    def _note_loss(self, seen: _Seen, verdict: Verdict) -> None:
        is_lost = verdict.reading is not None and verdict.reading.is_lost
        if is_lost and not seen.was_lost:
            self.losses += 1
            self._newly_lost.append(seen.name)
        seen.was_lost = is_lost

    def _tell_losses(self) -> None:
        """Outside the lock: whoever is told may ask us."""
        while self._newly_lost:
            with self._lock:
                names, self._newly_lost = self._newly_lost, []
            for name in names:
                self._on_lost(name)

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
        paths = set(self._pool.maps())
        for path in sorted(paths):
            seen = self._open(path, known, now)
            if seen is not None and self._is_ours(seen):
                found.append(seen)
        # Sources whose maps were removed under them are about to make new ones; no moment in between is clear.
        for seen in self._seen:
            if seen.path not in paths and self._still_beats(seen, now):
                seen.was_removed = True
                found.append(seen)
        self._seen = found

    @staticmethod
    def _still_beats(seen: _Seen, now: float) -> bool:
        if seen.page is None or seen.header is None:
            return False
        _, word = seen.page.read()
        return word is not None and word.state != "closed" and now < silent_at_s(seen.header, word)

    def _is_ours(self, seen: _Seen) -> bool:
        header = seen.header
        return header is None or not header.device or not self._device or header.device == self._device

    def _open(self, path: Path, known: dict[tuple[Path, int], _Seen], now: float) -> _Seen | None:
        with explained(path):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno in _PASSING:
                    raise
                return known.get((path, 0)) or _Seen(path, 0, None, None, error.strerror or str(error), now)
            try:
                found = os.fstat(descriptor)
                before = known.get((path, found.st_ino))
                # While we have a file mapped, no other one gets its number; one that we have not may be another by now.
                if before is not None and (before.page is not None or found.st_size != SIZE):
                    before.was_removed = False
                    return before
                since = now if before is None else before.since
                if found.st_size != SIZE:
                    problem = f"it has {found.st_size} bytes instead of {SIZE}"
                    return _Seen(path, found.st_ino, None, None, problem, since)
                memory, page = map_page(descriptor)
            finally:
                os.close(descriptor)
        header = unpack_header(memory[:])
        was_lost = before is not None and before.was_lost
        if isinstance(header, str):
            return _Seen(path, found.st_ino, None, None, header, since, was_lost)
        if header.boot != self._boot:
            if not owner_lives(path):
                return None  # of the host's last life, when its maps were not on a RAM disk
            return _Seen(path, found.st_ino, None, header, "its process has another clock", since, was_lost)
        return _Seen(path, found.st_ino, page, header, "", now)

    def _reopen_roster(self) -> None:
        """Follow a roster that was removed and made anew, or our sources would be somebody else's."""
        with explained(self._pool.roster), suppress(FileNotFoundError):
            if os.path.samestat(self._pool.roster.stat(), self._roster_is):
                return
        self._pool.make()
        log.warning("the lane folder %s was made anew", self._pool.folder)
        self._open_roster()
        self._scanned = -1

    def _open_roster(self) -> None:
        with explained(self._pool.roster):
            descriptor = os.open(self._pool.roster, os.O_RDWR)
            try:
                self._roster_is = os.fstat(descriptor)
                if self._roster_is.st_size != SIZE:
                    raise LaneError(f"The lane roster {self._pool.roster} is being made anew. It is read again soon.")
                self._roster = memoryview(mmap.mmap(descriptor, SIZE, access=mmap.ACCESS_READ)).cast("Q")
                self._bell = self._pool.bell(descriptor)
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


def dismiss(place: LanePlace, pool: str, name: str, *, clock: Callable[[], float] = time.monotonic) -> Dismissal:
    """Let the workers of this host overlook those sources of a name that are silent. Raises LaneError."""
    dismissed = alive = 0
    at = place.pool(pool)
    with at.changing():
        for path in at.maps():
            beats = _dismiss(path, name, clock())
            if beats is not None:
                alive += beats
                dismissed += not beats
    return Dismissal(dismissed, alive)


def _dismiss(path: Path, name: str, now: float) -> bool | None:
    """Dismiss this map's source if it has that name and is silent; returns whether it beats, None if it is another."""
    found = _open_to_dismiss(path)
    if found is not None:
        header, page = found
        if name not in (header.name, title(header)):
            return None
        sequence, word = page.read()
        if word is not None:
            beats = now < silent_at_s(header, word)
            if not beats:
                page.dismiss(sequence)
            return beats
    elif name not in (path.stem, path.stem.rpartition(".")[0]):
        return None
    # What can't be read can't be marked either. It goes, unless somebody has it open and may yet write something whole.
    beats = owner_lives(path)
    if not beats:
        with explained(path):
            path.unlink(missing_ok=True)
    return beats


def _open_to_dismiss(path: Path) -> tuple[Header, Page] | None:
    with explained(path):
        if path.is_symlink() or path.stat().st_size != SIZE:
            return None
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        try:
            memory, page = map_page(descriptor, write=True)
        finally:
            os.close(descriptor)
    header = unpack_header(memory[:])
    return None if isinstance(header, str) else (header, page)
