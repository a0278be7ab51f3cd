"""Ids of jobs and uploads."""

from __future__ import annotations

import base64
import hashlib
import re

_ID = re.compile(r"[a-z0-9]{26}")


def new_id() -> str:
    """A fresh id: a ULID in lower case, so ids sort by time."""
    from ulid import ULID

    return str(ULID()).lower()


def id_from_key(key: str, *, tenant: str | None = None) -> str:
    """The id that belongs to an idempotency key: the same key gives the same id, in each tenant its own.

    It starts with "k", which no ULID of the next 7,000 years does.
    """
    digest = hashlib.sha256(f"{tenant or ''}\0{key}".encode()).digest()
    return "k" + base64.b32hexencode(digest).decode().lower()[:25]


def is_id(text: str) -> bool:
    """Whether a text has the form of a job id."""
    return _ID.fullmatch(text) is not None


def created_at(identifier: str) -> float | None:
    """Seconds since the epoch at which a ULID was made; None for an id from a key."""
    if identifier.startswith("k"):
        return None
    from ulid import ULID

    return ULID.from_str(identifier.upper()).timestamp
