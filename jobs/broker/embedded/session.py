"""A consuming process as the broker knows it: it holds messages, keeps its lease and buries the dead."""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Iterable

from .database import Database, Delivery
from .doorbell import BellFolder, Doorbell, Ringer
from .errors import BrokerBusyError, DiskFullError, EmbeddedBrokerError, SessionLostError

log = logging.getLogger(__name__)

#: How often each session looks for dead neighbours and expired messages, in seconds.
SWEEP_S = 1.0
#: How often settlements that failed are tried again, in seconds.
_RETRY_S = 0.5
#: After how many sweeps socket files of nobody are looked for.
_TIDY_EVERY = 60


class Session:
    """Claims and settles messages on behalf of one transport in one process.

    A daemon thread renews the lease every third of it, tries failed settlements again and sweeps. Any
    thread may settle.

    Args:
        database: where the messages are; it must have been opened.
        folder: where the doorbells are.
        lease_s: how long the session may be silent before others take what it holds.
    """

    def __init__(self, database: Database, folder: BellFolder, *, lease_s: float) -> None:
        self._database = database
        self._folder = folder
        self._lease_s = lease_s
        self._ringer = Ringer(folder)
        self._pid = os.getpid()
        self._pending: dict[Delivery, bool] = {}
        self._lock = threading.Lock()
        self._full = False
        self._lost = False
        self._closed = threading.Event()
        self._waiter: int | None = None
        self.bell = Doorbell(folder)
        try:
            self.id = database.enter(lease_s=lease_s, bell=self.bell.name, pid=self._pid)
        except EmbeddedBrokerError:
            self.bell.close()
            raise
        self._keeper = threading.Thread(target=self._keep, name=f"embedded-broker-{self.id}", daemon=True)
        self._keeper.start()

    @property
    def is_mine(self) -> bool:
        """False in a child that inherited the session by a fork."""
        return self._pid == os.getpid()

    # -- consumers -------------------------------------------------------------------------------------

    def consume(self, queue: str, tag: str) -> None:
        """Have a queue's publishers ring this session."""
        self._database.consume(self.id, queue, tag)

    def cancel(self, tag: str) -> None:
        self._database.cancel(self.id, tag)

    # -- messages --------------------------------------------------------------------------------------

    def claim(self, queue: str, *, keep: bool = True) -> Delivery | None:
        """The next message of a queue, held until it is settled; None if there is none now.

        A full disk or a busy file counts as none, because a consumer can only wait.

        Args:
            keep: False deletes the message at once.
        """
        self.check()
        try:
            return self._database.claim(queue, self.id) if keep else self._database.take(queue)
        except DiskFullError as error:
            self._note_full(error)
        except BrokerBusyError as error:
            log.warning("%s Trying again.", error)
        return None

    def check(self) -> None:
        """Raise SessionLostError if others took this session for dead."""
        if self._lost:
            raise SessionLostError(
                f"The lease of this consumer ({self._lease_s:g} s) ran out, perhaps because the process was "
                f"stopped, and its messages went to others. Connect again; raise lease_s if it happens often."
            )

    def ack(self, delivery: Delivery) -> None:
        """Delete a message. If that fails for now, it is tried until it succeeds or the session ends."""
        self._settle(delivery, requeue=False)
        self.wake()

    def requeue(self, delivery: Delivery) -> None:
        """Put a message back at its place; tried again like `ack`."""
        self._settle(delivery, requeue=True)
        self.wake()

    def release(self, deliveries: Iterable[Delivery]) -> None:
        """Put several messages back."""
        for delivery in deliveries:
            self._settle(delivery, requeue=True)

    # -- waiting ---------------------------------------------------------------------------------------

    def wait(self, timeout_s: float) -> bool:
        """Wait until there may be something to do. True: a signal asks to stop."""
        return self.bell.wait(timeout_s)

    def begin_waiting(self) -> None:
        """From now on a settlement in another thread ends the wait. To be called before a last look."""
        self._waiter = threading.get_ident()

    def end_waiting(self) -> None:
        self._waiter = None

    def wake(self) -> None:
        """End another thread's wait, if there is one."""
        waiter = self._waiter
        if waiter is not None and waiter != threading.get_ident():
            self.bell.wake()

    # -- life ------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give back what is held and leave. In a forked child: forget the parent's session."""
        if self._closed.is_set():
            return
        self._closed.set()
        if not self.is_mine:
            return
        if threading.current_thread() is not self._keeper:
            self._keeper.join(timeout=5.0)
        try:
            self._settle_pending()
            swept = self._database.bury([self.id])
            self._ringer.ring(swept.bells - {self.bell.name or ""})
        except EmbeddedBrokerError as error:
            log.warning("%s What this consumer held comes back when its lease runs out.", error)
        self.bell.close()
        self._ringer.close()

    def sweep(self) -> None:
        """Free what the dead held, drop what expired, give free space back."""
        neighbours = self._database.neighbours(self.id)
        dead = [
            neighbour
            for neighbour in neighbours
            if neighbour.lapsed or (neighbour.bell is not None and self._ringer.is_dead(neighbour.bell))
        ]
        if dead:
            swept = self._database.bury([neighbour.id for neighbour in dead])
            for neighbour in dead:
                if neighbour.bell is not None:
                    self._folder.remove(neighbour.bell)
            if swept.released:
                log.warning("%d message(s) of %d dead consumer(s) are free again", swept.released, len(dead))
            self._ringer.ring(swept.bells)
            self.bell.wake()
        self._database.expire()
        self._database.vacuum()

    def tidy(self) -> None:
        """Remove socket files that belong to no session and that nobody is bound to."""
        known = {neighbour.bell for neighbour in self._database.neighbours(self.id)} | {self.bell.name}
        for name in self._folder.names():
            if name not in known and self._ringer.is_dead(name):
                self._folder.remove(name)

    # -- inside ----------------------------------------------------------------------------------------

    def _settle(self, delivery: Delivery, *, requeue: bool) -> None:
        if self._closed.is_set() or not self.is_mine:
            log.info("message %d was given back when its channel closed; it comes again", delivery.id)
            return
        try:
            self._settle_now(delivery, requeue=requeue)
        except EmbeddedBrokerError as error:
            if isinstance(error, DiskFullError):
                self._note_full(error)
            else:
                log.warning("%s Trying again.", error)
            with self._lock:
                self._pending[delivery] = requeue

    def _settle_now(self, delivery: Delivery, *, requeue: bool) -> None:
        if requeue:
            self._ringer.ring(self._database.requeue([delivery]))
        elif not self._database.ack(delivery):
            log.warning(
                "message %d, delivery %d, was acknowledged too late: its lease had run out and it is or will be "
                "delivered again",
                delivery.id,
                delivery.count,
            )

    def _settle_pending(self) -> None:
        with self._lock:
            pending = dict(self._pending)
        for delivery, requeue in pending.items():
            self._settle_now(delivery, requeue=requeue)
            with self._lock:
                self._pending.pop(delivery, None)
        if pending:
            self._full = False
            log.info("%d settlement(s) that had failed are done", len(pending))

    def _keep(self) -> None:
        clock = self._database.clock
        renew_at = clock.now() + self._lease_s / 3
        sweep_at = clock.now() + SWEEP_S * random.random()  # noqa: S311 - spreads the sweeps of many consumers
        sweeps = 0
        while not self._lost and not self._closed.wait(self._pause(min(renew_at, sweep_at) - clock.now())):
            try:
                self._settle_pending()
                if clock.now() >= renew_at:
                    self._renew()
                    renew_at = clock.now() + self._lease_s / 3
                if not self._lost and clock.now() >= sweep_at:
                    self.sweep()
                    if sweeps % _TIDY_EVERY == 0:
                        self.tidy()
                    sweeps += 1
                    sweep_at = clock.now() + SWEEP_S
            except DiskFullError as error:
                self._note_full(error)
                # Whoever is alive must be able to say so before anybody is taken for dead.
                sweep_at = clock.now() + self._lease_s
            except EmbeddedBrokerError as error:
                log.warning("keeping the lease: %s", error)
                renew_at = max(renew_at, clock.now() + _RETRY_S)
                sweep_at = clock.now() + SWEEP_S

    def _pause(self, until_due_s: float) -> float:
        if self._pending or self._full:
            return _RETRY_S
        return max(0.01, until_due_s)

    def _renew(self) -> None:
        if self._database.renew(self.id):
            self._full = False
            return
        self._lost = True
        log.error("this consumer's lease ran out and others took what it held")
        self.bell.wake()

    def _note_full(self, error: DiskFullError) -> None:
        if not self._full:
            log.error("%s", error)
        self._full = True
