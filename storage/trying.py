"""What may well succeed the next time is tried again, with growing pauses."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Literal, TypeVar

from .connections import Broken
from .errors import StoreUnavailable

log = logging.getLogger(__name__)

_R = TypeVar("_R")
_TRIES = 6
_PAUSE_FIRST_S, _PAUSE_MOST_S = 0.1, 5.0

PASSING = frozenset((408, 429, 500, 502, 503, 504))
"""Answers that say nothing of the request."""
TOO_MUCH = frozenset((429, 503))

Doing = Literal["read", "written"]


class Again(Exception):
    """Raised for what may well succeed the next time."""


def patiently(url: str, doing: Doing, once: Callable[[], _R]) -> _R:
    """What `once` returns, tried again while it raises Broken or Again. Raises StoreUnavailable after six tries."""
    pause, tried = _PAUSE_FIRST_S, 0
    while True:
        try:
            return once()
        except (Broken, Again) as error:
            tried += 1
            if tried >= _TRIES:
                cure = ". Check the endpoint and the network." if isinstance(error, Broken) else ""
                raise StoreUnavailable(f"{url} can't be {doing}, after {tried} tries: {error}{cure}") from error
            log.info("%s: %s; trying again", url, error)
        time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, guards nothing
        pause = min(_PAUSE_MOST_S, pause * 2)
