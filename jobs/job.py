"""A submitted job in the submitter's hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .ledger import Ledger
from .record import JobRecord, Outcome
from .results import ResultRow, result_shards
from .status import Status, StatusReader

if TYPE_CHECKING:
    from .client import Client

_POLL_FIRST_S, _POLL_MOST_S = 0.01, 0.5


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

    def result_shards(self, *, follow: bool = True) -> Iterator[list[ResultRow]]:
        """The same, a shard at a time: that is how they appear."""
        wait = self._waiter() if follow else None
        for lines in result_shards(self._ledger, self.record, wait=wait):
            yield [ResultRow(line) for line in lines]

    def wait(self, *, timeout: float | None = None, progress: bool = False) -> Status:
        """Wait until the job has ended.

        Args:
            timeout: seconds; then TimeoutError is raised, and the job runs on.
            progress: show a bar on standard error (plain lines where that is no terminal).
        """
        if progress:
            from .progress import wait_with_progress

            return wait_with_progress(self, timeout=timeout)
        return self.poll(lambda _: None, timeout=timeout)

    def poll(self, each: Callable[[Status], None], *, timeout: float | None = None) -> Status:
        """Call `each` with the status until the job has ended; returns the last one."""
        end = None if timeout is None else time.monotonic() + timeout
        pause = _POLL_FIRST_S
        while True:
            status = self.status()
            each(status)
            if status.has_ended:
                return status
            if end is not None and time.monotonic() >= end:
                raise TimeoutError(f"job {self.id} is {status.state} ({status.done} of {status.rows} rows); it runs on")
            time.sleep(pause)
            pause = min(_POLL_MOST_S, pause * 1.5)

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
        pause = _POLL_FIRST_S

        def wait() -> Outcome | None:
            nonlocal pause
            outcome = self._ledger.outcome(self.id)
            if outcome is None:
                time.sleep(pause)
                pause = min(_POLL_MOST_S, pause * 1.5)
            return outcome

        return wait
