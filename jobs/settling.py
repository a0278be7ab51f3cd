"""Ends a job whose stripes have all ended; what must happen first depends on its kind."""

from __future__ import annotations

from dataclasses import replace

import orjson

from ..storage.checkpoints.manifest import CopiedFile, commit_manifest
from .ledger import Ledger
from .record import JobRecord, Outcome


def settle(ledger: Ledger, record: JobRecord) -> Outcome | None:
    """Write the job's outcome if all its stripes have ended; any number of processes may try.

    Returns:
        The outcome, or None while stripes are open.
    """
    if record.kind == "checkpoint":
        return ledger.settle(record, state=lambda outcome: _commit_checkpoint(ledger, record, outcome))
    return ledger.settle(record)


def _commit_checkpoint(ledger: Ledger, record: JobRecord, outcome: Outcome) -> Outcome:
    """A checkpoint job is complete only with its manifest, and has one only if every file was copied."""
    if outcome.state != "completed":
        return outcome
    if outcome.counts.ok != record.rows:
        missing = record.rows - outcome.counts.ok
        return replace(
            outcome,
            state="failed",
            reason=f"{missing} of {record.rows} files were not copied (see the job's results); nothing is visible",
        )
    files: list[CopiedFile] = []
    for shard in range(record.shards):
        for line in ledger.shard(record.id, shard)[1]:
            body = orjson.loads(line)["response"]["body"]
            files.append(CopiedFile(body["path"], body["size_bytes"], body["crc32c"]))
    name, step = record.spec["name"], record.spec["step"]
    holder = commit_manifest(ledger.store, name, step, attempt=record.id, files=files)
    if holder != record.id:
        return replace(outcome, state="failed", reason=f"step {step} of {name} was committed before, by job {holder}")
    return outcome
