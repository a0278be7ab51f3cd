"""A worker that dies while it restores, as a process of its own; tests find it by this name."""

from __future__ import annotations

from holdshort.jobs.broker.message import Message
from holdshort.storage.opening import open_store
from support.checkpoints import House
from support.worker import KillAt


def killed_while_it_restores(store: str, message: Message) -> None:
    """Kill this process (SIGKILL) once some of what a message asks for is done."""
    house = House(open_store(store))
    house.runner(observer=KillAt("micro_batch", 2)).advance(message, redelivered=False)
