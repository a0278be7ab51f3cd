"""A source of the lane: says on this host whether a pool's accelerators are wanted by live traffic."""

from __future__ import annotations

import itertools
import logging
import mmap
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ...storage.errors import LaneError
from .bell import Bell
from .ending import at_end
from .page import Page, map_page
from .place import SUFFIX, LanePlace, boot_id, owner_lives
from .reading import NO_FIGURES, Figures
from .record import NAME, Header, State, Word, pack_header
from .verdict import BEAT_S, NS

log = logging.getLogger(__name__)

_LOOK_S = 1.0


class Source:
    """One source of a pool's lane. It beats by itself until it is closed; a process that ends normally closes its own.

    Any number of processes may have a source of the same name; each counts. A process that takes up the name of one
    that died has returned in its place, which ends the hold for its silence.

    Args:
        place: where the maps lie.
        pool: the pool whose workers heed it.
        name: for people, and for `holdshort lane dismiss`; letters, digits and . : _ -, at most 63.
        device: one of the pool's accelerators; "" for all.
        host: where the words come from, when they were only received here; "" for this host.
        beat_s: how often it beats. Silent for ten times that, it counts as lost.
        beats: False for words that are only received here: each `repeat` is its beat, and its end no goodbye.
        word: what it says first; without it, that there is no live request.

    Raises:
        LaneError: the map can't be made, e.g. because the RAM disk is full.
    """

    def __init__(
        self,
        place: LanePlace,
        *,
        pool: str,
        name: str,
        device: str = "",
        host: str = "",
        beat_s: float = BEAT_S,
        beats: bool = True,
        word: Word | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        for what, value in (("name", name), ("device", device), ("host", host)):
            if not NAME.fullmatch(value) and (what == "name" or value):
                raise LaneError(f"A source's {what} can't be {value!r}: use up to 63 letters, digits and . : _ -")
        self.pool = pool
        self.name = name
        self.device = device
        self.on_change: list[Callable[[Source], None]] = []
        """Called after each change, in the thread that made it; has to be quick."""
        self._place = place
        self._clock_ns = clock_ns
        self._header = Header(name, device, host, os.getpid(), round(beat_s * NS), boot_id())
        self._lock = threading.Lock()
        now = clock_ns()
        self._word = word or Word("clear", 1.0, "no live request", now, now)
        self._closed = False
        self._bell: Bell
        self._memory: mmap.mmap
        self._page: Page
        self._path: Path
        self._opened_ns: int
        self._descriptor: int
        self._join()
        self.beat_s = beat_s
        if beats:
            beating.add(self)

    @property
    def word(self) -> Word:
        """What was said last."""
        return self._word

    @property
    def slot(self) -> str:
        """The name of its map: on this host no other living process has it in this pool."""
        return self._path.stem

    @property
    def opened_ns(self) -> int:
        """Monotonic nanoseconds at which it took its slot; whoever takes the slot next does so later."""
        return self._opened_ns

    def hold(self, reason: str, *, for_s: float | None = None) -> None:
        """Batch work is to stand still: until `clear`, or by itself only so many seconds from now."""
        now = self._clock_ns()
        until = None if for_s is None else now + round(for_s * NS)
        self._say("hold", 0.0, reason, now, until)

    def clear(self, *, headroom: float = 1.0, reason: str = "no live request") -> None:
        """Batch work may run, for this share of the time (0.0 to 1.0). 0.0 is a hold."""
        if not headroom > 0.0:  # nor is what is no number any room
            self.hold(reason)
        else:
            self._say("clear", min(headroom, 1.0), reason, self._clock_ns(), None)

    def tell(self, figures: Figures) -> None:
        """Say how live traffic fares; shown by `holdshort lane`."""
        with self._lock:
            self._write(self._word, figures)

    def repeat(self, word: Word) -> None:
        """Say what a source on another host said; its times have to be of our clock. It also is a beat."""
        changed = (word.state, word.headroom, word.reason) != (self._word.state, self._word.headroom, self._word.reason)
        with self._lock:
            self._write(word, word.figures)
        if changed:
            self._bell.ring()
            self._tell_others()

    def beat(self) -> None:
        """Say that we live. Called by itself, unless the words are only received here."""
        with self._lock:
            self._write(self._word, self._word.figures)

    def close(self) -> None:
        """Say goodbye: the lane is clear as far as this source is concerned. Can be called twice.

        Raises:
            LaneError: it is said, but its map can't be removed.
        """
        beating.remove(self)
        with self._lock:
            if self._closed:
                return
            self._word = _at(self._word, "closed", self._clock_ns(), NO_FIGURES)
            self._page.write(self._word)
            self._closed = True
        self._bell.ring()
        try:
            self._tell_others()
            with self._place.pool(self.pool).changing():
                if self._is_there():
                    self._path.unlink(missing_ok=True)
        finally:
            self._let_go()

    def check(self) -> None:
        """Put the map back if somebody removed it, and follow a roster that was made anew."""
        pool = self._place.pool(self.pool)
        if not pool.has(self._bell):
            self._bell = pool.bell()
        with self._lock:
            if not self._closed and not self._is_there():
                log.warning("the lane map %s was removed; it is made again", self._path)
                before = self._descriptor
                self._join()
                os.close(before)

    def disown(self) -> None:
        """Let go in a forked child of what it only inherited: an open map would let its owner seem alive."""
        self._lock = threading.Lock()
        if not self._closed:
            self._closed = True
            self._let_go()

    # -- inside ------------------------------------------------------------------------------------------

    def _say(self, state: State, headroom: float, reason: str, now: int, until: int | None) -> None:
        with self._lock:
            before = self._word
            since = before.since_ns if before.state == state and _holds(before, now) else now
            self._write(Word(state, headroom, reason, now, since, until, before.figures), before.figures)
        self._bell.ring()
        self._tell_others()

    def _write(self, word: Word, figures: Figures) -> None:
        if not self._closed:
            word = _at(word, word.state, self._clock_ns(), figures)
            self._page.write(word)
            self._word = word

    def _tell_others(self) -> None:
        for listener in self.on_change:
            listener(self)

    def _join(self) -> None:
        pool = self._place.pool(self.pool)
        self._bell = pool.bell()
        stem = self._header.name + (f"@{self.device}" if self.device else "")
        stem += f"~{self._header.host}" if self._header.host else ""
        with pool.changing():
            self._opened_ns = self._clock_ns()
            taken = {path for path in pool.maps() if path.stem.rpartition(".")[0] == stem}
            dead = sorted(path for path in taken if not owner_lives(path))
            free = (pool.folder / f"{stem}.{number}{SUFFIX}" for number in itertools.count(1))
            path = dead[0] if dead else next(path for path in free if path not in taken)
            self._descriptor = pool.create(path, self._fill)
            self._path = path
        self._bell.ring()

    def _fill(self, descriptor: int) -> None:
        os.pwrite(descriptor, pack_header(self._header), 0)
        self._memory, self._page = map_page(descriptor, write=True)
        self._page.write(self._word)

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._descriptor))
        except OSError:  # if it can't be used for another reason, making it again tells which
            return False

    def _let_go(self) -> None:
        del self._memory, self._page
        os.close(self._descriptor)


class _Beating:
    """The thread that beats for all sources of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sources: list[Source] = []
        self._thread: threading.Thread | None = None
        os.register_at_fork(after_in_child=self._disown_all)

    def add(self, source: Source) -> None:
        with self._lock:
            self._sources = [*self._sources, source]
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lane-beat", daemon=True)
                self._thread.start()
                at_end(self._close_all)

    def remove(self, source: Source) -> None:
        with self._lock:
            self._sources = [other for other in self._sources if other is not source]

    def _run(self) -> None:
        look_at = 0.0
        while True:
            sources = self._sources
            time.sleep(min((source.beat_s for source in sources), default=BEAT_S))
            look = time.monotonic() >= look_at
            for source in sources:
                source.beat()
                if look:
                    self._check(source)
            if look:
                look_at = time.monotonic() + _LOOK_S

    @staticmethod
    def _check(source: Source) -> None:
        try:
            source.check()
        except LaneError as error:
            log.error("workers take source %s for lost: %s", source.name, error)  # noqa: TRY400 - it is told in full

    def _close_all(self) -> None:
        for source in self._sources:
            try:
                source.close()
            except LaneError as error:
                log.error("the map of source %s stays behind: %s", source.name, error)  # noqa: TRY400 - told in full

    def _disown_all(self) -> None:
        for source in self._sources:
            source.disown()
        self._lock, self._sources, self._thread = threading.Lock(), [], None


beating = _Beating()


def _at(word: Word, state: State, beat_ns: int, figures: Figures) -> Word:
    return Word(state, word.headroom, word.reason, beat_ns, word.since_ns, word.until_ns, figures)


def _holds(word: Word, now: int) -> bool:
    return word.until_ns is None or now < word.until_ns
