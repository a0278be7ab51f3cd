"""The transport's options and the path in its URL, checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import unquote, urlsplit

_DURABILITIES = ("normal", "full")


@dataclass(frozen=True, slots=True)
class Options:
    """kombu's `transport_options`; those of others are left alone.

    Attributes:
        lease_s: after how many silent seconds a consumer is taken for dead.
        durability: "normal", or "full": wait for the disk at every commit, so that not even a power loss
            takes anything back.
        busy_timeout_s: how many seconds to wait for other writers.
    """

    lease_s: float = 5.0
    durability: str = "normal"
    busy_timeout_s: float = 10.0

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> Options:
        """The options among all transport options. Raises ValueError."""
        known = {field.name: options[field.name] for field in fields(cls) if field.name in options}
        chosen = cls(**known)
        for name in ("lease_s", "busy_timeout_s"):
            value = getattr(chosen, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
                raise ValueError(f"The transport option {name} is {value!r}; it must be a number of seconds above 0.")
        if chosen.durability not in _DURABILITIES:
            raise ValueError(
                f"The transport option durability is {chosen.durability!r}; it must be one of {_DURABILITIES}."
            )
        return chosen


def path_of(url: str) -> str:
    """The database's path in a URL of ours. Raises ValueError."""
    parts = urlsplit(url)
    path = unquote(parts.path)
    # kombu shows a missing host as localhost, and somebody may copy that.
    if parts.netloc not in ("", "localhost") or not path.strip("/"):
        raise ValueError(
            f"{url!r} names no file of this host. "
            f"Write three slashes and an absolute path: embedded:///var/lib/app/broker.db"
        )
    return os.path.normpath(path)
