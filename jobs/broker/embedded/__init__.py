"""A message broker in one SQLite file: a kombu transport for all the processes of one host.

    register()
    Connection(url("/var/lib/app/broker.db"))      # embedded:///var/lib/app/broker.db

Nothing happens at import; `register` makes the scheme known to kombu.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from .errors import BrokerBusyError, BrokerFileError, DiskFullError, EmbeddedBrokerError, SessionLostError

SCHEME = "embedded"

__all__ = [
    "SCHEME",
    "BrokerBusyError",
    "BrokerFileError",
    "DiskFullError",
    "EmbeddedBrokerError",
    "SessionLostError",
    "register",
    "url",
]


def register() -> None:
    """Make `embedded://` known to kombu in this process. Calling it again does no harm."""
    from kombu.transport import TRANSPORT_ALIASES

    TRANSPORT_ALIASES[SCHEME] = f"{__name__}.transport:Transport"


def url(path: str | Path) -> str:
    """The URL of the broker in the file `path`, which need not exist yet (its folder must)."""
    return f"{SCHEME}://{quote(str(Path(path).absolute()))}"
