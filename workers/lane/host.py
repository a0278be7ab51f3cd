"""Which host this is, as other hosts know it."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
from contextlib import suppress
from dataclasses import dataclass

from ...storage.errors import LaneError
from .place import LanePlace, boot_id

_FILE = "host"
_UNFIT = re.compile(r"[^A-Za-z0-9_.:-]+")


@dataclass(frozen=True, slots=True)
class Host:
    """One set of lane maps, and who can reach them.

    Attributes:
        id: the same for all processes that share the maps, and for no others. A container with a lane folder of its own
            is a host of its own, whatever it is called. A host that was started anew is another one.
        name: for people.
    """

    id: str
    name: str


def this_host(place: LanePlace) -> Host:
    """The host whose maps lie there. Raises LaneError if its id can't be kept there."""
    path = place.folder / _FILE
    try:
        if not path.exists():
            # Linked when it is whole, so that nobody reads half an id, and of two processes one is first.
            fresh = path.with_name(f".{_FILE}-{secrets.token_hex(8)}")
            try:
                fresh.write_text(secrets.token_hex(16))
                with suppress(FileExistsError):
                    os.link(fresh, path)
            finally:
                fresh.unlink(missing_ok=True)
        kept = path.read_bytes()
    except OSError as error:
        raise LaneError(
            f"This host's id can't be kept in {path}: {error.strerror or error}. Make some room there, or name another "
            f"folder as lane_folder, for sources and workers alike."
        ) from error
    name = _UNFIT.sub("-", socket.gethostname()).lstrip("_.:-")[:63] or "host"
    return Host(hashlib.sha256(kept + boot_id()).hexdigest()[:16], name)
