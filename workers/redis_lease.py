"""Renews the lease on the message in hand on Redis.

kombu gives a message on Redis to somebody else once `visibility_timeout` has passed since it was fetched,
whether its worker lives or not. Renewing while we live lets that time be seconds, so a dead worker's message
is soon back, and a living one's is never given away.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

log = logging.getLogger(__name__)


class RedisLease:
    """A thread that renews what a Celery consumer has not acknowledged yet.

    Args:
        consumer: Celery's (celery.worker.consumer.Consumer).
        timeout_s: the visibility timeout; renewed every third of it.
    """

    def __init__(self, consumer: Any, timeout_s: float) -> None:
        self._consumer = consumer
        self._every_s = timeout_s / 3
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="redis-lease", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self._renew()
            except Exception as error:  # noqa: BLE001 - Redis away: Celery reconnects, the lease runs out meanwhile
                log.warning("the lease on Redis could not be renewed: %s", error)

    def _renew(self) -> None:
        tasks = self._consumer.task_consumer
        if tasks is None or tasks.channel is None:
            return
        channel = tasks.channel
        held = list(channel.qos._delivered)
        if held:
            with channel.conn_or_acquire() as client:
                # xx: only what is still there; an acknowledged message must not come back into the index.
                client.zadd(channel.unacked_index_key, dict.fromkeys(held, time.time()), xx=True)
