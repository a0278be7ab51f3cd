"""A restore of the latest step that turned out not to be whole goes on with the newest older one that is.

That is a job of its own, by slices as every other, which the first one waits for; whoever looks at the first one's end
begins it, or finds it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal, cast

from ...storage.checkpoints.manifest import read_manifest, steps
from ...storage.errors import Corrupt, ObjectNotFound, RefusedJob
from ...storage.store import Store
from ..identity import id_from_key
from ..ledger import Ledger
from ..record import JobRecord
from ..spec import CheckpointJob
from ..submitting import accept
from .accepting import rows_of
from .places import Places
from .row_done import is_damaged, rows_done

_FROM = "falls_back_from"
_KEPT = ("name", "to", "slice_bytes", "max_parallelism", "max_attempts", "tenant")

Fallen = tuple[Literal["completed", "failed", "cancelled", "expired"], str]
"""How it ended, and why so."""


class UnderWay(Exception):
    """Raised while the job that goes on has not ended."""


def may_fall_back(record: JobRecord) -> bool:
    """Whether a job wants whichever step is the newest that is whole."""
    return record.action == "restore" and record.spec.get("step", "latest") == "latest"


def waits_for(record: JobRecord) -> str | None:
    """The job that waits for this one to end, if one does."""
    return cast("dict[str, str]", record.spec.get("metadata") or {}).get(_FROM)


def unreadable_after(store: Store, name: str, step: int) -> list[str]:
    """What is wrong with newer steps, of those that nobody can read; the newest first."""
    found: list[str] = []
    for newer in sorted((each for each in steps(store, name) if each > step), reverse=True):
        try:
            read_manifest(store, name, newer)
        except (Corrupt, ObjectNotFound) as error:
            found.append(f"step {newer} is not whole ({error})")
    return found


def fall_back(ledger: Ledger, record: JobRecord, step: int, why: str, places: Places) -> Fallen:
    """How the restore of an older step has ended.

    Args:
        step: the one that is not whole.
        why: what is wrong with it.

    Raises:
        UnderWay: it has not ended.
    """
    name = record.spec["name"]
    passed_over = [*unreadable_after(ledger.store, name, step), f"step {step} is not whole ({why})"]
    for older in sorted((found for found in steps(ledger.store, name) if found < step), reverse=True):
        try:
            read_manifest(ledger.store, name, older)
        except (Corrupt, ObjectNotFound) as error:
            passed_over.append(f"step {older} is not whole ({error})")
            continue
        job = _job(record, older)
        job_id = id_from_key(str(job.idempotency_key), tenant=job.tenant)
        outcome = ledger.outcome(job_id)
        if outcome is None:
            is_cancelled = ledger.control(record.id).cancelled
            try:
                accept(ledger, job, rows_of(ledger.store, job, places))
            except RefusedJob as error:
                return "failed", "; ".join([*passed_over, f"step {older} can't be restored instead: {error}"])
            if is_cancelled:
                ledger.cancel(job_id, ledger.cancel_reason(record.id))
            raise UnderWay
        if outcome.state == "completed":
            return "completed", "; ".join([*passed_over, f"step {older} was restored instead, by job {job_id}"])
        if outcome.state != "failed" or not is_damaged(rows_done(ledger, ledger.record(job_id))):
            said = f"step {older}, by job {job_id}, {outcome.state}"
            return outcome.state, "; ".join([*passed_over, f"{said} ({outcome.reason})" if outcome.reason else said])
        passed_over.append(f"step {older} is not whole ({outcome.reason})")
    return "failed", f"No step of {name} is whole: {'; '.join(passed_over)}"


def _job(record: JobRecord, step: int) -> CheckpointJob:
    values: dict[str, Any] = {each: record.spec[each] for each in _KEPT if record.spec.get(each) is not None}
    if record.deadline_at is not None:
        values["deadline"] = datetime.fromtimestamp(record.deadline_at, UTC)
    return CheckpointJob(
        pool=record.pool, action="restore", step=step, priority=record.priority, metadata={_FROM: record.id},
        idempotency_key=f"{record.id} falls back to step {step}", **values,
    )  # fmt: skip
