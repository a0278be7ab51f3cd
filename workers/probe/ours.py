"""Which processes of this host are batch work: the workers that beat from here, and all that they started."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Sequence

from ...jobs import presence
from ...storage.errors import StoreError
from ...storage.store import Store
from .processes import Family, families_of

log = logging.getLogger(__name__)


class OurWorkers:
    """Follows the workers of some pools on this host, and counts this process among them.

    A worker is known from its first heartbeat: while it loads its engine it counts as somebody else.

    Attributes:
        unseen: pids of workers that beat lately but have no process here: they have just died, or run elsewhere.
        hidden: those of them that have beaten since they were missed, so they live: in another container.
    """

    def __init__(self, store: Store, pools: Sequence[str]) -> None:
        self.unseen: frozenset[int] = frozenset()
        self.hidden: frozenset[int] = frozenset()
        self._store = store
        self._pools = pools
        self._host = socket.gethostname()
        self._pids: frozenset[int] = frozenset()
        self._missed_at: dict[str, float] = {}
        self._is_away = False

    def look(self) -> None:
        """Ask the store.

        Raises:
            StoreError: it does not answer; what was known stays.
        """
        now = time.time()
        found = [beat for pool in self._pools for beat in presence.alive(self._store, pool, now=now)]
        beats = [beat for beat in found if beat.host == self._host]
        unseen = [beat for beat in beats if not os.path.exists(f"/proc/{beat.pid}")]
        self._missed_at = {beat.worker_id: self._missed_at.get(beat.worker_id, beat.at) for beat in unseen}
        self._pids = frozenset(beat.pid for beat in beats)
        self.unseen = frozenset(beat.pid for beat in unseen)
        self.hidden = frozenset(beat.pid for beat in unseen if beat.at > self._missed_at[beat.worker_id])

    def families(self) -> list[Family]:
        """Their processes now."""
        return families_of([os.getpid(), *self._pids])

    def follow(self, stop: threading.Event) -> None:
        """Ask the store again and again, in a thread."""
        threading.Thread(target=self._follow, args=(stop,), name="probe-workers", daemon=True).start()

    def _follow(self, stop: threading.Event) -> None:
        while not stop.wait(presence.BEAT_S):
            try:
                self.look()
                self._is_away = False
            except StoreError as error:
                if not self._is_away:
                    log.warning("the pool's workers can't be looked up; those known still count as batch: %s", error)
                self._is_away = True
