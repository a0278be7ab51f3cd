"""The gateway's side towards the upstream: connections, and what can go wrong with them."""

from .connection import Connection, Head
from .faults import UpstreamFault
from .pool import Upstream

__all__ = ["Connection", "Head", "Upstream", "UpstreamFault"]
