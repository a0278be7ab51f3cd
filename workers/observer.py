"""What a runner tells about its work: for heartbeats, metrics, and whoever wants to look on."""

from __future__ import annotations

from typing import Literal

Point = Literal[
    "taken",  # a turn was taken, nothing was read yet
    "micro_batch",  # a micro-batch is about to run
    "before_commit",  # a shard is computed
    "after_commit",  # it is committed
    "parking",  # finished rows are saved, the message is not yet handed back
    "continued",  # the next message is published, ours is not yet acknowledged
]
"""Moments in the life of a shard, in order."""


class Observer:
    """Base of all observers: does nothing; override what is wanted.

    Called in the runner's thread, so be brief.
    """

    def at(self, point: Point, *, job: str, stripe: int, shard: int | None) -> None:
        """A moment has come."""

    def ran(self, *, units: int, cost: int, seconds: float) -> None:
        """A micro-batch was executed."""

    def finished(self, *, rows: int) -> None:
        """This many rows were answered (well or not)."""

    def waited(self, *, seconds: float, reason: str) -> None:
        """Work stood still in place."""

    def left(self, *, action: str, why: str) -> None:
        """The stripe was let go of."""
