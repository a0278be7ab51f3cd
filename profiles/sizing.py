"""How much memory reads may take on a node. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from .access import GIB, MIB
from .profile import Value

_SHARE = 0.25
_LEAST, _MOST = 64 * MIB, 8 * GIB


@dataclass(frozen=True, slots=True)
class Node:
    """What a machine, or the container that we run in, has.

    Attributes:
        memory_bytes: the limit of the container, or what the machine has.
        memory_used_bytes: of it, and not given back on demand.
        memory_origin: where that limit comes from, for people.
    """

    memory_bytes: int
    memory_used_bytes: int
    memory_origin: str


def fit(node: Node) -> tuple[Value, ...]:
    """The values that fit the node."""
    left = max(0, node.memory_bytes - node.memory_used_bytes)
    share = int(left * _SHARE)
    wanted = min(max(share, _LEAST), _MOST)
    free = f"{node.memory_origin} leaves {size(left)} free"
    if wanted > share:
        why = f"the least that is of use; {free}"
    elif wanted < share:
        why = f"more is of no use; {free}"
    else:
        why = f"a quarter of what is free: {free}"
    return (Value("memory_bytes", wanted, why),)


def size(amount: float) -> str:
    """Bytes for people: "1.5 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < 1024:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.3g} {unit}"
        amount /= 1024
    return f"{amount:.3g} TiB"
