"""Receives what sources on other hosts say, and keeps it in this host's maps: one small process per host."""

from __future__ import annotations

import logging
import secrets
import threading
import time

from ...jobs.settings import Settings
from ...storage.errors import BrokerUnavailable, LaneError
from . import wire
from .announcer import BACKOFF_MOST_S, BEAT_S
from .fanout import Fanout
from .host import this_host
from .place import LanePlace, owner_lives
from .reader import dismiss
from .record import Word
from .relay_lock import RelayLock
from .remotes import Remotes, is_remote
from .source import Source
from .verdict import BEAT_S as OWN_BEAT_S
from .verdict import MISSED_BEATS

log = logging.getLogger(__name__)

NAME = "relay"
_ASKS = "asking other hosts for their lanes"
_BEATS_TO_HEAR = 4
"""A source whose process, or the broker, is late by three of its beats on a busy machine is heard nevertheless."""
_ECHO_S = 1.0
_ECHO_FIRST_S = 0.1
_DEAF_S = 3.0
_WAIT_S = 0.25
_SWEEP_S = 600.0
_WARN_S = 60.0
_BACKOFF_S = 0.2
_DEATH_S = 2.0
_STOPPED_S = MISSED_BEATS * OWN_BEAT_S


def run_relay(settings: Settings, stop: threading.Event) -> None:
    """Be this host's relay until `stop` is set; first wait until no other one is.

    Raises:
        LaneError: the maps can't be made on this host.
        BrokerRefused, MissingExtra: the broker can't be used at all.
    """
    place = LanePlace.of(settings)
    lock = RelayLock(place)
    if not lock.wait(stop):
        return
    relay = Relay(settings, place)
    relay.run(stop)  # an error says no goodbye: workers hold until somebody takes over
    relay.leave(has_successor=lock.is_wanted())


def relay_is_there(settings: Settings) -> bool:
    """Whether a relay of this host has a source on every pool, so that none is taken for clear unheard."""
    place = LanePlace.of(settings)
    return all(any(_is_relays(path.stem) and owner_lives(path) for path in place.pool(pool).maps())
               for pool in settings.pools)  # fmt: skip


class Relay:
    """The relay at work.

    It is itself a source on every pool. That one holds until other hosts had time to be heard: from the start, and
    again after each time in which this host could not hear. While the broker is away it does not, since no new work is
    consumed then, and the sources of other hosts fall silent by themselves.

    Raises:
        LaneError: the maps can't be made on this host.
    """

    def __init__(self, settings: Settings, place: LanePlace) -> None:
        self._settings = settings
        self._place = place
        self._store = place.folder.name
        self._echo = wire.Echo(store=self._store, relay=secrets.token_hex(8))
        timeouts = {name: pool.signal_loss_timeout_s for name, pool in settings.pools.items()}
        self._remotes = Remotes(place, timeouts, this_host(place).id)
        self._hears = False
        self._was_away = False
        self._heard_echo: float | None = None
        self._unread = 0
        self._warn_at = 0.0
        self._sweep_at = 0.0
        self._await_predecessor()
        now = time.monotonic_ns()
        word = Word("hold", 0.0, _ASKS, now, now)
        self._sources = [Source(place, pool=pool, name=NAME, word=word, beats=False) for pool in settings.pools]
        self._was_stopped = threading.Event()
        self._is_leaving = threading.Event()
        threading.Thread(target=self._beat, name="relay-beat", daemon=True).start()

    def run(self, stop: threading.Event) -> None:
        """Receive until `stop` is set, connecting anew whenever it has to."""
        while not stop.is_set():
            try:
                with Fanout(self._settings, hears=True) as fanout:
                    self._follow(fanout, stop)
            except BrokerUnavailable as error:
                if not self._was_away:
                    log.warning("%s The sources of other hosts count as lost meanwhile.", error)
                self._was_away = True
                self._keep_up()
                stop.wait(_BACKOFF_S)

    def leave(self, *, has_successor: bool) -> None:
        """Say goodbye; or hold, and beat until this process is no more, so that a successor finds no hold let go."""
        if has_successor:
            for source in self._sources:
                source.hold(_ASKS)
            return
        self._is_leaving.set()
        for source in self._sources:
            source.close()
        self._remotes.close()

    # -- inside ------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        """Beat for our sources. After a standstill of the whole process they hold first: others spoke meanwhile."""
        last = time.monotonic()
        while not self._is_leaving.wait(OWN_BEAT_S):
            now = time.monotonic()
            if now - last >= _STOPPED_S:
                self._was_stopped.set()
                for source in self._sources:
                    source.hold(_ASKS)
            last = now
            for source in self._sources:
                source.beat()

    def _follow(self, fanout: Fanout, stop: threading.Event) -> None:
        self._hears, self._heard_echo = False, None
        self._was_stopped.clear()
        self._show()
        listen_s = _BEATS_TO_HEAR * BEAT_S + (BACKOFF_MOST_S if self._was_away else 0.0)
        began = time.monotonic()
        echo_at = check_at = 0.0
        since: float | None = None
        while not stop.is_set():
            now = time.monotonic()
            if now >= echo_at:
                fanout.say(self._echo)
                echo_at = now + (_ECHO_FIRST_S if self._heard_echo is None else _ECHO_S)
            if now >= check_at:
                self._keep_up()
                check_at = now + 1.0
            until = min(echo_at, check_at, now + _WAIT_S, *([] if since is None or self._hears else [since + listen_s]))
            for body in fanout.hear(max(0.001, until - now)):
                self._take_in(body)
            if since is None and self._heard_echo is not None:
                since = self._heard_echo
            if self._was_stopped.is_set():
                raise BrokerUnavailable("Lane signals could not cross hosts while this process was stopped.")
            now = time.monotonic()
            if since is not None and not self._hears and now >= since + listen_s:
                self._is_synchronised()
            if now - max(began, self._heard_echo or 0.0) > _DEAF_S:
                raise BrokerUnavailable(f"Lane signals can't cross hosts: nothing was heard for {_DEAF_S:.0f} s.")

    def _is_synchronised(self) -> None:
        self._hears = True
        if self._was_away:
            log.info("this host hears the lanes of other hosts again")
        self._was_away = False
        self._show()

    def _take_in(self, body: bytes | str) -> None:
        try:
            text = wire.decode(body)
        except ValueError as error:
            self._drop(str(error))
            return
        if text.store != self._store:
            return
        match text:
            case wire.Words():
                failed = dict(self._remotes.unwritten)
                self._remotes.take_in(text)
                if self._remotes.unwritten != failed:
                    self._show()
            case wire.Echo():
                if text.relay == self._echo.relay:
                    self._heard_echo = time.monotonic()
            case wire.Dismissal():
                self._dismiss(text)

    def _dismiss(self, text: wire.Dismissal) -> None:
        if text.pool not in self._settings.pools:
            return
        try:
            found = dismiss(self._place, text.pool, text.source)
        except LaneError as error:
            log.error("source %s could not be dismissed: %s", text.source, error)  # noqa: TRY400 - it is told in full
            return
        log.info("source %s of pool %s: %d dismissed, %d alive", text.source, text.pool, found.dismissed, found.alive)

    def _drop(self, problem: str) -> None:
        self._unread += 1
        now = time.monotonic()
        if now >= self._warn_at:
            self._warn_at = now + _WARN_S
            log.warning("%d messages on the lane exchange can't be read; the last: %s", self._unread, problem)

    def _show(self) -> None:
        """Say on each pool whether other hosts are heard."""
        for source in self._sources:
            problem = next((why for key, why in self._remotes.unwritten.items() if key[1] == source.pool), "")
            if not self._hears or self._was_stopped.is_set():
                source.hold(_ASKS)
            elif problem:
                source.hold(problem)
            else:
                source.clear(reason="other hosts are heard")

    def _keep_up(self) -> None:
        now = time.monotonic()
        failed = dict(self._remotes.unwritten)
        self._remotes.check(now)
        for source in self._sources:
            self._put_back(source)
        if self._remotes.unwritten != failed:
            self._show()
        if now >= self._sweep_at:
            self._sweep_at = now + _SWEEP_S
            self._remotes.sweep()

    def _put_back(self, source: Source) -> None:
        try:
            source.check()
        except LaneError as error:
            log.error("workers take the relay for lost: %s", error)  # noqa: TRY400 - it is told in full

    def _await_predecessor(self) -> None:
        """Let the last relay's maps go with it: they are ours, but are not free before its process has ended."""
        end = time.monotonic() + _DEATH_S
        while time.monotonic() < end and any(
            (_is_relays(path.stem) or is_remote(path)) and owner_lives(path)
            for pool in self._settings.pools
            for path in self._place.pool(pool).maps()
        ):
            time.sleep(0.001)


def _is_relays(stem: str) -> bool:
    return stem.rpartition(".")[0] == NAME
