"""Objects in parts that nobody will finish: their worker died before it could note them, or their job is gone."""

from __future__ import annotations

import logging
from contextlib import suppress

from ...storage.errors import UnknownJob
from ..ledger import Ledger
from .uploads import Uploads

log = logging.getLogger(__name__)

ABANDONED_AGE_S = 7 * 86400.0
"""Other writers than jobs of this store leave parts here too, such as a replication from another one: a week is longer
than any of them takes."""


def sweep_unfinished(ledger: Ledger, *, now: float) -> int:
    """Drop what was begun below `checkpoints/` over a week ago and belongs to no job that still runs.

    Args:
        now: seconds since the epoch.

    Returns:
        How many were dropped.
    """
    parted = ledger.store.parted
    if parted is None:
        return 0
    old = [found for found in parted.unfinished("checkpoints") if now - found.touched_at >= ABANDONED_AGE_S]
    if not old:
        return 0
    needed: set[str] = set()
    for job_id in ledger.active():
        with suppress(UnknownJob):
            if ledger.record(job_id).kind == "checkpoint":
                needed.update(upload.token for upload in Uploads(ledger.store, job_id).all())
    dropped = 0
    for found in old:
        if found.token not in needed:
            parted.drop(found.path, found.token)
            log.info("the unfinished parts of %s, begun over a week ago, are dropped", found.path)
            dropped += 1
    return dropped
