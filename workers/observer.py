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

    def lost(self, *, rows: int, seconds: float) -> None:
        """A micro-batch with units of this many rows was stopped after so long; it will run again."""

    def yielded(self, *, raised: float, seen: float, still: float) -> None:
        """Work came to a stand because of a hold: when that began, was seen, and work stood (monotonic seconds)."""

    def finished(self, *, rows: int) -> None:
        """This many rows were answered (well or not)."""

    def parked(self, *, seconds: float) -> None:
        """The worker took no messages for so long (more), because its lane is held."""

    def source_lost(self, *, name: str) -> None:
        """A source of the lane fell silent without goodbye."""

    def waited(self, *, seconds: float, reason: str) -> None:
        """Work stood still in place, and goes on or is let go of now."""

    def left(self, *, action: str, why: str) -> None:
        """The stripe was let go of."""


class Observers(Observer):
    """Tells several observers, in order."""

    def __init__(self, *each: Observer) -> None:
        self._each = each

    def at(self, point: Point, *, job: str, stripe: int, shard: int | None) -> None:
        for observer in self._each:
            observer.at(point, job=job, stripe=stripe, shard=shard)

    def ran(self, *, units: int, cost: int, seconds: float) -> None:
        for observer in self._each:
            observer.ran(units=units, cost=cost, seconds=seconds)

    def lost(self, *, rows: int, seconds: float) -> None:
        for observer in self._each:
            observer.lost(rows=rows, seconds=seconds)

    def yielded(self, *, raised: float, seen: float, still: float) -> None:
        for observer in self._each:
            observer.yielded(raised=raised, seen=seen, still=still)

    def finished(self, *, rows: int) -> None:
        for observer in self._each:
            observer.finished(rows=rows)

    def parked(self, *, seconds: float) -> None:
        for observer in self._each:
            observer.parked(seconds=seconds)

    def source_lost(self, *, name: str) -> None:
        for observer in self._each:
            observer.source_lost(name=name)

    def waited(self, *, seconds: float, reason: str) -> None:
        for observer in self._each:
            observer.waited(seconds=seconds, reason=reason)

    def left(self, *, action: str, why: str) -> None:
        for observer in self._each:
            observer.left(action=action, why=why)
