"""Who of several controllers leads: a numbered chain of leases, each created once."""

from __future__ import annotations

import time
from collections.abc import Callable

import orjson

from ...storage.errors import ObjectNotFound
from ...storage.store import Store
from ..ledger import layout

TTL_S = 10.0


class Lease:
    """A lease on leading, for one controller.

    Two may believe to lead for a moment when their clocks differ; all that a leader does can be done twice, so
    that costs work, never correctness.

    Args:
        owner: who we are.
        ttl_s: how long after our last sign of life another takes over.
        clock: seconds since the epoch.
    """

    def __init__(
        self, store: Store, owner: str, *, ttl_s: float = TTL_S, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._owner = owner
        self._ttl_s = ttl_s
        self._clock = clock
        self._number = 0
        self._until = 0.0

    @property
    def leads(self) -> bool:
        """Whether we led when last asked."""
        return self._number > 0

    def held(self) -> bool:
        """Whether we lead; renews the lease, or takes it if it is free."""
        now = self._clock()
        if self._number and self._until - self._ttl_s <= now < self._until - self._ttl_s / 2:
            return True
        numbers = [int(name) for name in self._store.list(layout.leases())]
        latest = max(numbers, default=0)
        # One that ends later than any lease may was taken before somebody's clock was set back: it is void.
        if latest > self._number and now < self._read(latest) <= now + 2 * self._ttl_s:
            self._number = 0
            return False
        until = now + self._ttl_s
        if not self._store.create(layout.lease(latest + 1), orjson.dumps({"owner": self._owner, "until": until})):
            self._number = 0
            return False
        self._number, self._until = latest + 1, until
        for number in numbers:
            if number < latest:
                self._store.delete(layout.lease(number))
        return True

    def release(self) -> None:
        """Let another take over at once, if we lead."""
        if self._number:
            data = orjson.dumps({"owner": self._owner, "until": 0.0})
            self._store.create(layout.lease(self._number + 1), data)
            self._number = 0

    def _read(self, number: int) -> float:
        try:
            return float(orjson.loads(self._store.read(layout.lease(number)))["until"])
        except ObjectNotFound:
            return 0.0
