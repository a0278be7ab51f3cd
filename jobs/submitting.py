"""Accepting a job: read and check the input, store it, make the job exist, publish its messages."""

from __future__ import annotations

import base64
import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from ..storage.errors import BrokerUnavailable, IdempotencyConflict, StoreError, UnknownJob
from ..storage.local import LocalStore
from ..storage.store import Store
from .broker.broker import Broker
from .broker.message import Message
from .checkpoints.accepting import rows_of
from .checkpoints.places import Places
from .identity import id_from_key, new_id
from .input import ContentDigest, InputRow, PackedShard, pack, read_rows
from .ledger import Ledger
from .policy.urgency import priority_now
from .record import JobRecord, ShardSizes
from .settings import Settings
from .spec import BatchInferenceJob, CheckpointJob

log = logging.getLogger(__name__)

INLINE_BYTES = 4096
"""An input of one shard no larger than this (compressed) lies in the job's record: an object less to write and read."""


def submit(
    ledger: Ledger,
    broker: Broker,
    settings: Settings,
    job: BatchInferenceJob | CheckpointJob,
    places: Places | None = None,
) -> JobRecord:
    """Accept a job, or find the same one accepted before.

    Args:
        places: how to reach other stores; by default by the settings.

    Raises:
        RefusedInput, RefusedJob, UnknownPool: nothing was accepted.
        ObjectNotFound: there is no such checkpoint; nothing was accepted.
        IdempotencyConflict: the key was used for different content.
        StoreUnavailable: nothing was accepted, unless only the answer to the last write was lost. With an
            idempotency key, submitting again is safe.
    """
    settings.pool(job.pool)
    record = accept(ledger, job, _rows(ledger.store, settings, job, places or Places.of(settings)))
    # Without a key the id is new, so nobody can have accepted it before.
    publish_open(ledger, broker, record, fresh=job.idempotency_key is None)
    return record


def accept(ledger: Ledger, job: BatchInferenceJob | CheckpointJob, rows: Iterable[InputRow]) -> JobRecord:
    """Store the rows and make the job exist, without publishing."""
    job_id = id_from_key(job.idempotency_key, tenant=job.tenant) if job.idempotency_key else new_id()
    digest = ContentDigest()
    if job.idempotency_key and not _depends_on_content(job):
        with suppress(UnknownJob):
            # What it is to do is done, perhaps, and could not be accepted a second time.
            return _same(ledger.record(job_id), _job_digest(job, digest), job)
    most = job.slice_bytes if isinstance(job, CheckpointJob) else math.inf
    shards = pack(_digested(rows, digest), shard_rows=job.shard_rows, moves_bytes=most)
    upload = _upload(ledger, job_id, shards)
    now = ledger.clock()
    record = JobRecord(
        id=job_id,
        kind=job.kind,
        pool=job.pool,
        priority=job.base_priority,
        accepted_at=now,
        deadline_at=job.deadline_at(now),
        sizes=upload.sizes,
        stripes=min(job.max_parallelism, upload.sizes.shards),
        upload=upload.id,
        inline=upload.inline,
        digest=_job_digest(job, digest),
        spec=_spec(job),
        shard_bytes=ShardSizes.of(upload.moves) if isinstance(job, CheckpointJob) else None,
    )
    # If this fails without an answer the job may exist, so its input stays; a controller removes it if not.
    accepted = ledger.accept(record)
    if accepted.upload == upload.id:
        return accepted
    ledger.drop_upload(job_id, upload.id)
    return _same(accepted, record.digest, job)


def _same(accepted: JobRecord, digest: str, job: BatchInferenceJob | CheckpointJob) -> JobRecord:
    if accepted.digest != digest:
        raise IdempotencyConflict(
            f"The idempotency key {job.idempotency_key!r} belongs to job {accepted.id}, which has a different "
            f"input, pool or parameters. Use another key, or submit exactly the same. Nothing was submitted."
        )
    log.info("job %s was accepted before", accepted.id)
    return accepted


def _depends_on_content(job: BatchInferenceJob | CheckpointJob) -> bool:
    """Whether it is another job when its input is; what is done with committed steps is said by the job alone."""
    return not isinstance(job, CheckpointJob) or job.action == "save"


@dataclass(frozen=True, slots=True)
class _Upload:
    """Input that is stored, or small enough to lie in the record itself."""

    id: str
    sizes: ShardSizes
    inline: str
    moves: list[int]


def _upload(ledger: Ledger, job_id: str, shards: Iterator[PackedShard]) -> _Upload:
    upload = new_id()
    first = next(shards)
    second = next(shards, None)
    if second is None and len(first.data) <= INLINE_BYTES:
        inline = base64.b64encode(first.data).decode()
        return _Upload(upload, ShardSizes.of([first.rows]), inline, [first.moves_bytes])
    sizes: list[int] = []
    moves: list[int] = []
    try:
        for shard in chain([first], [] if second is None else [second], shards):
            ledger.put_input(job_id, upload, shard.index, shard.data)
            sizes.append(shard.rows)
            moves.append(shard.moves_bytes)
    except BaseException:
        with suppress(StoreError):  # a controller removes what can't be removed now
            ledger.drop_upload(job_id, upload)
        raise
    return _Upload(upload, ShardSizes.of(sizes), "", moves)


def publish_open(ledger: Ledger, broker: Broker, record: JobRecord, *, fresh: bool = False) -> bool:
    """Publish the next message of each open stripe; False if the broker is away and a controller has to.

    For a job whose stripes have all ended, that is a message by which a worker ends the job.

    Args:
        fresh: the job was accepted just now, so no turn can have been taken.
    """
    now = ledger.clock()
    turns = dict.fromkeys(range(record.stripes), 1) if fresh else ledger.next_turns(record)
    if not turns:
        # All that is left is its end, and only a worker can bring that about; any message makes one look.
        turns = {0: ledger.turns(record.id)[0].key.number + 1}
    messages = [
        Message(
            pool=record.pool,
            job=record.id,
            stripe=stripe,
            turn=number,
            priority=priority_now(record, now=now, waiting_since=record.accepted_at),
        )
        for stripe, number in turns.items()
    ]
    try:
        broker.publish(messages)
    except BrokerUnavailable as error:
        log.warning("job %s is accepted; its messages follow when the broker is back: %s", record.id, error)
        return False
    ledger.published(record.id)
    return True


def _rows(
    store: Store, settings: Settings, job: BatchInferenceJob | CheckpointJob, places: Places
) -> Iterator[InputRow]:
    if isinstance(job, CheckpointJob):
        return rows_of(store, job, places)
    return read_rows(job.input, storage_options=settings.store_options, exclude=_inside(store))


def _inside(store: Store) -> Callable[[str], bool]:
    """Whether a path of an input lies in the store itself: results must not become rows."""
    if not isinstance(store, LocalStore):
        prefix = f"{store.url}/"
        return lambda path: path.startswith(prefix)
    root = store.root

    def exclude(path: str) -> bool:
        return Path(path).resolve().is_relative_to(root.resolve())

    return exclude


def _digested(rows: Iterable[InputRow], digest: ContentDigest) -> Iterator[InputRow]:
    for row in rows:
        digest.update(row)
        yield row


def _spec(job: BatchInferenceJob | CheckpointJob) -> dict[str, Any]:
    # What a checkpoint job leaves out is left out, so that a `save` reads as it always did.
    return job.model_dump(mode="json", exclude_none=isinstance(job, CheckpointJob))


def _job_digest(job: BatchInferenceJob | CheckpointJob, content: ContentDigest) -> str:
    # What shapes the results; priority, deadline and the like may differ between two submits of one job.
    shape: dict[str, Any] = {"kind": job.kind, "pool": job.pool, "params": job.params}
    if isinstance(job, CheckpointJob):
        fields = ("action", "name", "step", "to", "keep_last", "keep_every")
        shape |= {field: found for field in fields if (found := getattr(job, field)) is not None}
    text = orjson.dumps(shape, option=orjson.OPT_SORT_KEYS)
    if _depends_on_content(job):
        text += content.hexdigest().encode()
    return f"sha256:{hashlib.sha256(text).hexdigest()}"
