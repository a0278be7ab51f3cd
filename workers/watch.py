"""What becomes of a job while a worker is busy with it, asked in the background."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Self

from ..jobs.ledger import Control, Ledger, Stripe
from ..storage.errors import StoreError

log = logging.getLogger(__name__)


class Watch:
    """Asks the ledger at an interval whether the job was cancelled or paused, or the turn taken over.

    A thread asks, so the micro-batches never wait for the store.

    Args:
        on_change: called from that thread after an answer changed.
    """

    def __init__(
        self,
        ledger: Ledger,
        stripe: Stripe,
        control: Control,
        *,
        interval_s: float,
        on_change: Callable[[], None],
    ) -> None:
        self.control = control
        self.taken_over = False
        self._ledger = ledger
        self._stripe = stripe
        self._interval_s = interval_s
        self._on_change = on_change
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"watch-{stripe.record.id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _follow(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                control = self._ledger.control(self._stripe.record.id)
                taken_over = control.ended or self._stripe.is_superseded()
            except StoreError as error:
                log.warning("job %s can't be looked after: %s", self._stripe.record.id, error)
                continue
            if (control, taken_over) != (self.control, self.taken_over):
                self.control, self.taken_over = control, taken_over
                self._on_change()
