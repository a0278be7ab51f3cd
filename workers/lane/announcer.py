"""Tells other hosts what the sources of this process say."""

from __future__ import annotations

import itertools
import logging
import math
import os
import random
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ...jobs.settings import Settings
from ...storage.errors import HoldshortError
from . import wire
from .ending import at_end
from .fanout import Fanout
from .host import this_host
from .place import LanePlace
from .record import Word
from .source import Source
from .verdict import MISSED_BEATS

log = logging.getLogger(__name__)

BEAT_S = 0.25
"""How often a process tells other hosts of all its sources."""
BACKOFF_MOST_S = 0.5
_BACKOFF_FIRST_S = 0.05
_GAP_S = 0.002
"""Between two changes; what changes meanwhile is told as it is then. Bounds what a flapping source costs."""
_FAREWELL_S = 1.0


@dataclass(frozen=True, slots=True)
class _Told:
    """What of a source was told last."""

    slot: str
    opened: int
    word: Word


@dataclass(frozen=True, slots=True)
class _Gone:
    """A goodbye: told until the broker has it, and for as long again as silence goes unnoticed, if a host missed it."""

    last: _Told
    source: Source
    until: float = math.inf


class Announcer:
    """One thread that tells other hosts each change at once, and everything at every beat.

    Only the latest word counts, so nothing queues up, and whoever changes a source never waits for the broker. A broker
    that is away is tried again for ever; other hosts take the sources for lost meanwhile.

    Raises:
        LaneError: this host's id can't be kept in its lane folder.
    """

    def __init__(self, settings: Settings, place: LanePlace) -> None:
        self._settings = settings
        self._host = this_host(place)
        self._store = place.folder.name
        self._sequence = itertools.count(1)
        self._lock = threading.Lock()
        self._told: dict[Source, _Told | None] = {}
        self._gone: dict[tuple[str, str], _Gone] = {}
        self._wake = threading.Event()
        self._fanout: Fanout | None = None
        self._is_away = False
        self._backoff_s = _BACKOFF_FIRST_S
        self._is_leaving = False
        self._has_left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lane-announcer", daemon=True)
        self._thread.start()

    def add(self, source: Source) -> None:
        """Tell of this source until it is closed."""
        with self._lock:
            self._told[source] = None
        source.on_change.append(self._changed)
        self._wake.set()

    def leave(self, timeout_s: float = _FAREWELL_S) -> None:
        """Close all sources and tell so, if the broker takes it in time."""
        for source in self._sources():
            source.close()
        self._is_leaving = True
        self._wake.set()
        self._has_left.wait(timeout_s)

    # -- inside ------------------------------------------------------------------------------------------

    def _changed(self, source: Source) -> None:
        if not self._wake.is_set():
            self._wake.set()

    def _sources(self) -> list[Source]:
        with self._lock:
            return list(self._told)

    def _run(self) -> None:
        beat_at = 0.0
        while not self._has_left.is_set():
            anything = bool(self._told or self._gone)
            self._wake.wait(max(0.0, beat_at - time.monotonic()) if anything else None)
            self._wake.clear()
            is_beat = self._fanout is None or time.monotonic() >= beat_at
            try:
                has_changed = self._tell(everything=is_beat)
            except HoldshortError as error:
                if not self._is_away:
                    log.warning("%s Other hosts hold for this host's sources until it is back.", error)
                self._suffer()
                continue
            except Exception:
                if not self._is_away:
                    log.exception("this host's lane signals can't be told to other hosts, which hold for its sources")
                self._suffer()
                continue
            if is_beat:
                beat_at = time.monotonic() + BEAT_S
            if self._is_leaving:
                self._has_left.set()
            elif has_changed:
                time.sleep(_GAP_S)

    def _tell(self, *, everything: bool) -> bool:
        """Send what there is to say; returns whether something had changed."""
        now, now_ns = time.monotonic(), time.monotonic_ns()
        told: dict[Source, _Told] = {}
        words: list[wire.SaidWord] = []
        changed = False
        for source in self._sources():
            current = _Told(source.slot, source.opened_ns, source.word)
            before = self._told[source]
            is_new = _differs(before, current)
            changed |= is_new
            if before is not None and before.slot != current.slot:  # its map was removed, and its name taken since
                self._part(source, before)
            if current.word.state == "closed":
                self._part(source, current)
                with self._lock:
                    del self._told[source]
            elif everything or is_new:
                self._gone.pop((source.pool, current.slot), None)
                told[source] = current
                words.append(_say(source, current, now_ns))
        if everything or changed:
            self._gone = {key: gone for key, gone in self._gone.items() if now < gone.until}
            words += (_say(gone.source, gone.last, now_ns) for gone in self._gone.values())
        if words:
            self._send(words)
            until = now + MISSED_BEATS * BEAT_S
            self._gone = {key: replace(gone, until=min(gone.until, until)) for key, gone in self._gone.items()}
        elif not self._told and self._fanout is not None:
            self._hang_up()
        self._told.update(told)
        return changed

    def _part(self, source: Source, last: _Told) -> None:
        word = Word("closed", 1.0, "", last.word.beat_ns, last.word.since_ns)
        self._gone[source.pool, last.slot] = _Gone(replace(last, word=word), source)

    def _send(self, words: list[wire.SaidWord]) -> None:
        if self._fanout is None:
            self._fanout = Fanout(self._settings)
        for part in wire.in_texts(words):
            self._fanout.say(
                wire.Words(
                    store=self._store,
                    host=self._host.id,
                    host_name=self._host.name,
                    pid=os.getpid(),
                    seq=next(self._sequence),
                    beat_s=BEAT_S,
                    words=list(part),
                )
            )
        if self._is_away:
            self._is_away = False
            log.info("other hosts hear this host's lane signals again")
        self._backoff_s = _BACKOFF_FIRST_S

    def _suffer(self) -> None:
        """Let go of the connection, and wait a little longer than the last time."""
        self._hang_up()
        self._is_away = True
        time.sleep(self._backoff_s * random.uniform(0.5, 1.0))  # noqa: S311 - so that not all come back at once
        self._backoff_s = min(BACKOFF_MOST_S, self._backoff_s * 2)
        self._wake.set()

    def _hang_up(self) -> None:
        fanout, self._fanout = self._fanout, None
        if fanout is not None:
            fanout.close()


def announce(settings: Settings, place: LanePlace, sources: Iterable[Source]) -> None:
    """Let other hosts hear these sources, from a thread that all sources of this process share.

    Raises:
        LaneError: this host's id can't be kept in its lane folder.
    """
    key = (settings.broker, place.folder)
    with _lock:
        announcer = _announcers.get(key)
        if announcer is None:
            announcer = _announcers[key] = Announcer(settings, place)
            if len(_announcers) == 1:
                # After the sources' own, hence before them at the end: goodbyes are said while they can be told.
                at_end(_leave)
                os.register_at_fork(after_in_child=_forget)
    for source in sources:
        announcer.add(source)


def _leave() -> None:
    for announcer in list(_announcers.values()):
        announcer.leave()


def _forget() -> None:
    """In a forked child the sources are not ours, and their connections must stay open for the parent."""
    global _lock
    _lock = threading.Lock()
    _inherited.extend(_announcers.values())
    _announcers.clear()


_lock = threading.Lock()
_announcers: dict[tuple[str, Path], Announcer] = {}
_inherited: list[Announcer] = []


def _differs(before: _Told | None, now: _Told) -> bool:
    if before is None or (before.slot, before.opened) != (now.slot, now.opened):
        return True
    old, new = before.word, now.word
    return (old.state, old.headroom, old.reason, old.until_ns) != (new.state, new.headroom, new.reason, new.until_ns)


def _say(source: Source, told: _Told, now_ns: int) -> wire.SaidWord:
    return wire.say(source.pool, told.slot, told.opened, source.name, source.device, told.word, now_ns=now_ns)
