"""`holdshort lane dismiss`: an operator says that a source that fell silent is gone for good."""

from __future__ import annotations

from collections.abc import Sequence

from ...jobs.settings import Settings
from .fanout import announce_dismissal, is_on
from .place import LanePlace
from .reader import dismiss


def dismiss_source(settings: Settings, pools: Sequence[str], name: str) -> tuple[list[str], list[str]]:
    """Let workers, on other hosts too, overlook the lost sources of a name.

    Raises:
        LaneError: the lane folder of this host can't be used.
        BrokerUnavailable: other hosts could not be told; on this one it is done.

    Returns:
        The pools on which there is only one that still beats, and those on which a lost one was dismissed.
    """
    place = LanePlace.of(settings)
    alive: list[str] = []
    dismissed: list[str] = []
    for pool in pools:
        found = dismiss(place, pool, name)
        if found.dismissed:
            dismissed.append(pool)
        elif found.alive:
            alive.append(pool)
        if is_on(settings):
            announce_dismissal(settings, pool, name)
    return alive, dismissed
