"""Sources and readers for the configured store: what the gateway, `lane.live()` and workers begin with."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from ...jobs.settings import Settings
from ...storage.errors import SettingsError
from .announcer import announce
from .fanout import is_on
from .live import Live
from .place import LanePlace
from .source import Source

_lock = threading.Lock()
_known: dict[tuple[str, str, str | None], Live] = {}


def open_sources(settings: Settings, name: str, *, pools: Sequence[str] = (), device: str = "") -> list[Source]:
    """A source on each of these pools (all configured ones without any), also heard on other hosts where that is on.

    Raises:
        UnknownPool, SettingsError: no such pool or device.
        LaneError: the maps can't be made on this host.
        BrokerRefused: a broker of a kind that can't be used.
    """
    for pool in pools:
        devices = settings.pool(pool).devices
        if device and device not in devices:
            raise SettingsError(
                f"Pool {pool} has no device {device!r}; it has {', '.join(devices) or 'none of its own'} "
                f"(pools.{pool}.devices)."
            )
    place = LanePlace.of(settings)
    sources: list[Source] = []
    with ExitStack() as opened:
        for pool in pools or settings.pools:
            sources.append(Source(place, pool=pool, name=name, device=device))
            opened.callback(sources[-1].close)
        if is_on(settings):
            announce(settings, place, sources)
        opened.pop_all()
    return sources


def live(name: str = "live", *, pool: str | None = None, device: str = "") -> Live:
    """Around each live request of a server of your own: batch work on the pool holds meanwhile.

    Cheap enough for each request (about 16 µs), safe between threads and tasks, and may be nested. The first use reads
    the settings and opens the source, which takes milliseconds. A forked process opens one of its own at its first
    request, also where it goes on using what its parent got from here.

    Args:
        name: the source's name, for people; e.g. "chat".
        pool: whose workers are to hold; without it, those of all configured pools.
        device: the accelerator that the server runs on, where a pool has several.

    Raises:
        SettingsError, UnknownPool, LaneError: at the first use only.
    """
    key = (name, device, pool)
    found = _known.get(key)
    if found is None:
        with _lock:
            found = _known.get(key)
            if found is None:
                found = _known[key] = Live(_open(*key), what=f"live requests of {name}")
    return found


def _open(name: str, device: str, pool: str | None) -> list[Source]:
    return open_sources(Settings.load(), name, pools=[pool] if pool else (), device=device)


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for key, found in _known.items():
        found.forked(partial(_open, *key))


os.register_at_fork(after_in_child=_after_fork)
