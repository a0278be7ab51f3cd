"""Accepting a job: read and check the input, store it, make the job exist, publish its messages."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

import orjson

from ..storage.errors import BrokerUnavailable, IdempotencyConflict, RefusedJob, StoreError
from ..storage.local import LocalStore
from ..storage.sources import source_of, version_of
from ..storage.store import Store
from .broker.broker import Broker
from .broker.message import Message
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


def submit(ledger: Ledger, broker: Broker, settings: Settings, job: BatchInferenceJob | CheckpointJob) -> JobRecord:
    """Accept a job, or find the same one accepted before.

    Raises:
        RefusedInput, RefusedJob, UnknownPool: nothing was accepted.
        IdempotencyConflict: the key was used for different content.
        StoreUnavailable: nothing was accepted, unless only the answer to the last write was lost. With an
            idempotency key, submitting again is safe.
    """
    settings.pool(job.pool)
    record = accept(ledger, job, _rows(ledger.store, settings, job))
    # Without a key the id is new, so nobody can have accepted it before.
    publish_open(ledger, broker, record, fresh=job.idempotency_key is None)
    return record


def accept(ledger: Ledger, job: BatchInferenceJob | CheckpointJob, rows: Iterable[InputRow]) -> JobRecord:
    """Store the rows and make the job exist, without publishing."""
    job_id = id_from_key(job.idempotency_key, tenant=job.tenant) if job.idempotency_key else new_id()
    digest = ContentDigest()
    shards = pack(_digested(rows, digest), shard_rows=job.shard_rows)
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
        spec=job.model_dump(mode="json"),
    )
    # If this fails without an answer the job may exist, so its input stays; a controller removes it if not.
    accepted = ledger.accept(record)
    if accepted.upload == upload.id:
        return accepted
    ledger.drop_upload(job_id, upload.id)
    if accepted.digest != record.digest:
        raise IdempotencyConflict(
            f"The idempotency key {job.idempotency_key!r} belongs to job {accepted.id}, which has a different "
            f"input, pool or parameters. Use another key, or submit exactly the same. Nothing was submitted."
        )
    log.info("job %s was accepted before", accepted.id)
    return accepted


@dataclass(frozen=True, slots=True)
class _Upload:
    """Input that is stored, or small enough to lie in the record itself."""

    id: str
    sizes: ShardSizes
    inline: str


def _upload(ledger: Ledger, job_id: str, shards: Iterator[PackedShard]) -> _Upload:
    upload = new_id()
    first = next(shards)
    second = next(shards, None)
    if second is None and len(first.data) <= INLINE_BYTES:
        return _Upload(upload, ShardSizes.of([first.rows]), base64.b64encode(first.data).decode())
    sizes: list[int] = []
    try:
        for shard in chain([first], [] if second is None else [second], shards):
            ledger.put_input(job_id, upload, shard.index, shard.data)
            sizes.append(shard.rows)
    except BaseException:
        with suppress(StoreError):  # a controller removes what can't be removed now
            ledger.drop_upload(job_id, upload)
        raise
    return _Upload(upload, ShardSizes.of(sizes), "")


def publish_open(ledger: Ledger, broker: Broker, record: JobRecord, *, fresh: bool = False) -> bool:
    """Publish the next message of each open stripe; False if the broker is away and a controller has to.

    Args:
        fresh: the job was accepted just now, so no turn can have been taken.
    """
    now = ledger.clock()
    messages = [
        Message(
            pool=record.pool,
            job=record.id,
            stripe=stripe,
            turn=number,
            priority=priority_now(record, now=now, waiting_since=record.accepted_at),
        )
        for stripe, number in (dict.fromkeys(range(record.stripes), 1) if fresh else ledger.next_turns(record)).items()
    ]
    try:
        broker.publish(messages)
    except BrokerUnavailable as error:
        log.warning("job %s is accepted; its messages follow when the broker is back: %s", record.id, error)
        return False
    ledger.published(record.id)
    return True


def _rows(store: Store, settings: Settings, job: BatchInferenceJob | CheckpointJob) -> Iterator[InputRow]:
    if isinstance(job, CheckpointJob):
        return _files(job)
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


def _files(job: CheckpointJob) -> Iterator[InputRow]:
    """A row for each file of the checkpoint, with the size and the version that it has now."""
    fs, base = source_of(job.source)
    found = cast("dict[str, dict[str, Any]]", fs.find(base, detail=True))
    if not found or not fs.isdir(base):
        raise RefusedJob(f"{job.source} is no folder with files in it. Nothing was submitted.")
    for path in sorted(found):
        relative = path.removeprefix(base).lstrip("/")
        info = found[path]
        if info["type"] != "file":
            if not fs.isfile(path):
                raise RefusedJob(f"{path} is no regular file, and can't be copied. Remove it. Nothing was submitted.")
            info = cast("dict[str, Any]", fs.info(path))  # of what a link leads to
        body = {
            "source": job.source,
            "path": relative,
            "size_bytes": info["size"],
            "version": version_of(info),
        }
        try:
            line = orjson.dumps({"custom_id": relative, "body": body})
        except TypeError as error:
            shown = path.encode("utf-8", "backslashreplace").decode()
            raise RefusedJob(f"The name of {shown} is not UTF-8. Rename it. Nothing was submitted.") from error
        yield InputRow(custom_id=relative, line=line, where=path)


def _digested(rows: Iterable[InputRow], digest: ContentDigest) -> Iterator[InputRow]:
    for row in rows:
        digest.update(row)
        yield row


def _job_digest(job: BatchInferenceJob | CheckpointJob, content: ContentDigest) -> str:
    # What shapes the results; priority, deadline and the like may differ between two submits of one job.
    shape: dict[str, Any] = {"kind": job.kind, "pool": job.pool, "params": job.params}
    if isinstance(job, CheckpointJob):
        shape |= {"name": job.name, "step": job.step}
    text = orjson.dumps(shape, option=orjson.OPT_SORT_KEYS) + content.hexdigest().encode()
    return f"sha256:{hashlib.sha256(text).hexdigest()}"
