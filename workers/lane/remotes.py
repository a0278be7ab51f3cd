"""The sources of other hosts, as this host's relay keeps them in its maps."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...storage.errors import LaneError
from . import wire
from .page import map_page
from .place import LanePlace, boot_id, owner_lives
from .record import SIZE, Header, unpack_header
from .source import Source
from .verdict import NS

log = logging.getLogger(__name__)

MOST = 1024
"""So many sources are kept; a map takes 4 KiB."""
_GRACE_S = 3600.0
"""For so long after it was given up on, a source is kept for people to see."""
_TOMBSTONE_S = 60.0
_REMOTE_MARK = "~"
"""In the name of a map whose source is on another host."""

Key = tuple[str, str, str]
"""A source anywhere: host id, pool, slot."""


@dataclass(slots=True)
class _Remote:
    """A source that was heard of.

    Attributes:
        source: its map here; None once it said goodbye, or while it can't be written.
        heard: monotonic seconds.
    """

    opened: int
    sequence: int
    heard: float
    header: tuple[str, float] = ("", 0.0)
    source: Source | None = None


class Remotes:
    """Keeps a map for each source of the other hosts.

    Args:
        timeouts: the configured pools, with their time-outs for lost signals in seconds; others are none of ours.
        host: our own id, whose words are in our maps already.

    Attributes:
        unwritten: sources that hold or may hold, but can't be written here, and why.
    """

    def __init__(self, place: LanePlace, timeouts: Mapping[str, float], host: str) -> None:
        self._place = place
        self._timeouts = timeouts
        self._host = host
        self._known: dict[Key, _Remote] = {}
        self.unwritten: dict[Key, str] = {}

    def take_in(self, text: wire.Words) -> None:
        """Copy what a process on another host says into the maps."""
        if text.host == self._host:
            return
        for said in text.words:
            if said.pool in self._timeouts:
                self._take_in((text.host, said.pool, said.slot), text, said)

    def check(self, now: float) -> None:
        """Put back maps that were removed, and remove those of sources that were given up on long ago."""
        for key, remote in list(self._known.items()):
            if now - remote.heard > self._keep_s(key, remote):
                self._drop(key, remote)
            elif remote.source is not None:
                try:
                    remote.source.check()
                except LaneError as error:
                    self.unwritten[key] = str(error)
                else:
                    self.unwritten.pop(key, None)

    def sweep(self) -> None:
        """Remove what a relay that died has left, once it can't be meant for anybody any more."""
        for pool, timeout_s in self._timeouts.items():
            at = self._place.pool(pool)
            old = [path for path in at.maps() if _is_left(path) and _silent_s(path) > timeout_s + _GRACE_S]
            if old:
                with at.changing():
                    for path in old:
                        path.unlink(missing_ok=True)

    def close(self) -> None:
        """Say goodbye for all: nobody on this host listens any longer."""
        for key, remote in list(self._known.items()):
            self._drop(key, remote)

    # -- inside ------------------------------------------------------------------------------------------

    def _take_in(self, key: Key, text: wire.Words, said: wire.SaidWord) -> None:
        known = self._known.get(key)
        if known is not None and (said.opened, text.seq) <= (known.opened, known.sequence):
            return  # it came late, or is of a source that has a successor
        now = time.monotonic()
        remote = known or _Remote(0, 0, now)
        remote.opened, remote.sequence, remote.heard = said.opened, text.seq, now
        self._known[key] = remote
        if said.state == "closed":
            self._say_goodbye(key, remote)
            return
        try:
            self._write(remote, text, said)
        except LaneError as error:
            if key not in self.unwritten:
                log.error("what %s on %s says can't be kept: %s", said.source, text.host_name, error)  # noqa: TRY400
            self.unwritten[key] = f"{said.source} on {text.host_name} can't be heard here: {error}"
        else:
            self.unwritten.pop(key, None)

    def _write(self, remote: _Remote, text: wire.Words, said: wire.SaidWord) -> None:
        word = said.word(time.monotonic_ns())
        header = (text.host_name, text.beat_s)
        before = remote.source
        if before is not None and remote.header == header:
            before.repeat(word)
            return
        if before is None and sum(other.source is not None for other in self._known.values()) >= MOST:
            raise LaneError(f"there are more than {MOST} sources on other hosts")
        remote.source = Source(
            self._place,
            pool=said.pool,
            name=said.source,
            device=said.device,
            host=text.host_name,
            beat_s=text.beat_s,
            beats=False,
            word=word,
        )
        remote.header = header
        if before is not None:
            before.close()

    def _say_goodbye(self, key: Key, remote: _Remote) -> None:
        self.unwritten.pop(key, None)
        source, remote.source = remote.source, None
        if source is not None:
            source.close()

    def _drop(self, key: Key, remote: _Remote) -> None:
        self._say_goodbye(key, remote)
        del self._known[key]

    def _keep_s(self, key: Key, remote: _Remote) -> float:
        """For how long to keep a source that is silent."""
        if remote.source is not None:
            return self._timeouts[key[1]] + _GRACE_S
        return self._timeouts[key[1]] if key in self.unwritten else _TOMBSTONE_S


def is_remote(path: Path) -> bool:
    """Whether this map is of a source on another host."""
    return _REMOTE_MARK in path.stem


def _is_left(path: Path) -> bool:
    return is_remote(path) and not owner_lives(path)


def _silent_s(path: Path) -> float:
    """For how long nothing was written into a map."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        found = os.fstat(descriptor)
        if found.st_size == SIZE:
            memory, page = map_page(descriptor)
            header, (_, word) = unpack_header(memory[:]), page.read()
            if isinstance(header, Header) and header.boot == boot_id() and word is not None:
                return (time.monotonic_ns() - word.beat_ns) / NS
    finally:
        os.close(descriptor)
    return time.time() - found.st_mtime
