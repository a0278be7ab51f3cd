"""A submitted job in the submitter's hand."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .ledger import Ledger
from .pauses import pauses
from .record import JobRecord, Outcome
from .results import ResultRow, result_shards
from .status import Status, StatusReader

if TYPE_CHECKING:
    from .client import Client


class Job:
    """A job, known by its id. Everything is read from the store, so any process can hold one.

    Attributes:
        id: the job's id.
        record: what was accepted.
    """

    def __init__(self, client: Client, ledger: Ledger, record: JobRecord) -> None:
        self.id = record.id
        self.record = record
        self._client = client
        self._ledger = ledger
        self._reader = StatusReader(ledger, record)

    def __repr__(self) -> str:
        return f"Job({self.id!r}, pool={self.record.pool!r}, rows={self.record.rows})"

    def status(self) -> Status:
        """Where the job stands now."""
        return self._reader.read()

    def results(self, *, follow: bool = True) -> Iterator[ResultRow]:
        """The rows' results in input order.

        Args:
            follow: wait for rows that are not done yet, until the job ends; False: stop at the first such row.
        """
        for shard in self.result_shards(follow=follow):
            yield from shard

    def result_shards(self, *, follow: bool = True, first: int = 0) -> Iterator[list[ResultRow]]:
        """The same, a shard at a time: that is how they appear.

        Args:
            first: the shard to begin with.
        """
        wait = self._waiter() if follow else None
        for lines in result_shards(self._ledger, self.record, wait=wait, first=first):
            yield [ResultRow(line) for line in lines]

    def wait(self, *, timeout: float | None = None, progress: bool = False) -> Status:
        """Wait until the job has ended.

        Args:
            timeout: seconds; then TimeoutError is raised, and the job runs on.
            progress: show a bar on standard error (plain lines where that is no terminal).
        """
        if not progress:
            return self.poll(lambda _: None, timeout=timeout)
        from .progress import shown

        with shown(self.id, self.record.rows, self.record.size_bytes) as show:
            return self.poll(show, timeout=timeout)

    def poll(self, each: Callable[[Status], None], *, timeout: float | None = None) -> Status:
        """Call `each` with the status until the job has ended; returns the last one."""
        end = None if timeout is None else time.monotonic() + timeout
        for pause in pauses():
            status = self.status()
            each(status)
            if status.has_ended:
                return status
            left = math.inf if end is None else end - time.monotonic()
            if left <= 0:
                raise TimeoutError(still(status))
            time.sleep(min(pause, left))
        raise AssertionError("pauses never end")

    def cancel(self, reason: str = "") -> bool:
        """Ask for the job to be cancelled; False if it had been asked for, or had ended, before."""
        return self._client.cancel(self.id, reason)

    def pause(self) -> bool:
        """Stop after the micro-batches in hand, until `resume`; False if it was paused already."""
        return self._client.pause(self.id)

    def resume(self) -> bool:
        """Go on; False if it was not paused."""
        return self._client.resume(self.id)

    def why(self) -> str:
        """In one sentence: what it waits for, or what it does."""
        return self._client.why(self.id)

    def _waiter(self) -> Callable[[], Outcome | None]:
        pause = pauses()

        def wait() -> Outcome | None:
            outcome = self._ledger.outcome(self.id)
            if outcome is None:
                time.sleep(next(pause))
            return outcome

        return wait


def still(status: Status) -> str:
    """What to say when a job has not ended in time."""
    return f"job {status.id} is {status.state} ({status.done} of {status.rows} rows); it runs on"
