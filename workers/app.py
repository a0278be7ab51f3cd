"""The Celery app of a pool's workers: one task, one queue, and no message lost or hoarded."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from celery import Celery

from ..jobs.broker.broker import queue_name
from ..jobs.broker.message import TASK, Message
from ..jobs.broker.transports import EMBEDDED, Transport

log = logging.getLogger(__name__)


def make_app(url: str, ways: Transport, pool: str, queue: Any, advance: Callable[[Message, bool], object]) -> Celery:
    """An app whose only task passes a message, and whether it was delivered before, to `advance`.

    Args:
        queue: the pool's queue, declared as publishers declare it.
    """
    if ways.name == EMBEDDED:
        from ..jobs.broker import embedded

        embedded.register()
    app = Celery("holdshort", broker=url, set_as_current=False)
    app.conf.update(
        # A message is acknowledged when its turn is over, and goes back if we die before.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        # Nothing is fetched beyond the message in hand.
        worker_prefetch_multiplier=1,
        worker_concurrency=1,
        # One process, one thread for work: the engine is never forked, the main thread keeps heartbeats.
        worker_pool="threads",
        task_queues=[queue],
        task_default_queue=queue_name(pool),
        task_create_missing_queues=False,
        broker_transport_options=dict(ways.options),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_heartbeat=20,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # JSON on the wire, never pickle.
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        # The ledger and our own heartbeats know; events would only load the broker.
        worker_send_task_events=False,
        task_send_sent_event=False,
        worker_enable_remote_control=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )

    @app.task(name=TASK, bind=True, acks_late=True, ignore_result=True)
    def task(self: Any, *arguments: Any) -> None:
        try:
            message = Message.parse(list(arguments))
        except ValueError as error:
            log.error("a message was dropped: %s", error)  # noqa: TRY400 - it is not ours to trace
            return
        delivery: dict[str, Any] = self.request.delivery_info or {}
        redelivered = bool(delivery.get("redelivered"))
        advance(message, redelivered)

    return app


def worker_name(pool: str, host: str) -> str:
    """Celery's node name: unlike any other worker's."""
    return f"{pool}-{os.getpid()}@{host}"
