"""Ends a job whose stripes have all ended; what must happen first depends on its kind."""

from __future__ import annotations

from contextlib import suppress

from ..storage.errors import UnknownJob
from .checkpoints.ending import NotHere, end
from .checkpoints.falling_back import waits_for
from .checkpoints.places import Places
from .ledger import Ledger
from .record import JobRecord, Outcome


def settle(ledger: Ledger, record: JobRecord, places: Places | None = None) -> Outcome | None:
    """Write the job's outcome if all its stripes have ended; any number of processes may try.

    Args:
        places: other stores and folders that this process can reach; without it, a job that needs them is left.

    Returns:
        The outcome, or None while stripes are open, or if only a worker can end the job, or it waits for another one.
    """
    if record.kind != "checkpoint":
        return ledger.settle(record)
    try:
        found = ledger.settle(record, state=lambda outcome: end(ledger, record, outcome, places))
    except NotHere:
        return None
    waiting = waits_for(record)
    if found is not None and waiting is not None:
        with suppress(UnknownJob):
            settle(ledger, ledger.record(waiting), places)
    return found
