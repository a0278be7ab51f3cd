"""Checkpoint jobs without a broker: a queue in memory and real stores, so that holds and deaths come in time."""

from __future__ import annotations

import random
from collections import deque
from pathlib import Path
from typing import Any

from holdshort.jobs.broker.message import Message
from holdshort.jobs.checkpoints.accepting import rows_of
from holdshort.jobs.checkpoints.places import Places
from holdshort.jobs.ledger import Ledger
from holdshort.jobs.record import JobRecord, Outcome
from holdshort.jobs.results import ResultRow, result_shards
from holdshort.jobs.spec import CheckpointJob
from holdshort.jobs.submitting import accept
from holdshort.storage.checkpoints.manifest import file_path, read_manifest
from holdshort.storage.patience import PatientStore
from holdshort.storage.store import Store
from holdshort.workers.engines.checkpoint.engine import CheckpointEngine
from holdshort.workers.lane.reading import CLEAR
from holdshort.workers.observer import Observer
from holdshort.workers.runner import Limits, Runner

MIB = 2**20
SLICE = 8 * MIB


def folder_of(root: Path, files: dict[str, bytes]) -> Path:
    """A folder with these files."""
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def content(folder: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def noise(size_bytes: int, seed: int = 1) -> bytes:
    """Bytes of which no slice is like another."""
    return random.Random(seed).randbytes(size_bytes)


class House:
    """A ledger on a store, a queue, and what workers need."""

    def __init__(self, store: Store, replicas: dict[str, dict[str, Any]] | None = None) -> None:
        self.store = store
        self.ledger = Ledger(PatientStore(store))
        self.replicas = replicas or {}
        self.queue: deque[Message] = deque()
        self.lane = CLEAR

    def submit(self, **spec: Any) -> JobRecord:
        """Accept a job for the pool embed, in slices of 8 MiB, and queue its messages."""
        job = CheckpointJob(pool="embed", name="run", **{"slice_bytes": SLICE, **spec})
        record = accept(Ledger(self.store), job, rows_of(self.store, job, Places(self.replicas)))
        self.queue.extend(Message("embed", record.id, stripe, 1, 4) for stripe in range(record.stripes))
        return record

    def engine(self, **more: Any) -> CheckpointEngine:
        return CheckpointEngine(self.store, Places(self.replicas, is_worker=True), **more)

    def runner(
        self,
        engine: CheckpointEngine | None = None,
        *,
        observer: Observer | None = None,
        is_worker: bool = True,
        **limits: float,
    ) -> Runner:
        return Runner(
            Ledger(PatientStore(self.store)),
            {"checkpoint": engine or self.engine()},
            self.queue.append,
            lane=lambda: self.lane,
            worker_id="worker",
            limits=Limits(**limits),
            observer=observer,
            places=Places(self.replicas, is_worker=is_worker),
        )

    def drain(self, runner: Runner | None = None) -> None:
        """Work until no message is left."""
        runner = runner or self.runner()
        while self.queue:
            runner.advance(self.queue.popleft(), redelivered=False)

    def run(self, **spec: Any) -> Outcome:
        """Submit a job and work until it has ended."""
        record = self.submit(**spec)
        self.drain()
        return self.outcome(record)

    def outcome(self, record: JobRecord) -> Outcome:
        found = self.ledger.outcome(record.id)
        assert found is not None
        return found

    def results(self, record: JobRecord) -> list[ResultRow]:
        return [ResultRow(line) for shard in result_shards(self.ledger, record, wait=None) for line in shard]

    def saved(self, source: Path, step: int, **spec: Any) -> JobRecord:
        """A step that is committed."""
        record = self.submit(source=str(source), step=step, **spec)
        self.drain()
        assert self.outcome(record).state == "completed", self.outcome(record)
        return record

    def at(self, step: int, path: str, store: Store | None = None) -> str:
        """Where a file of a committed step lies."""
        return file_path("run", step, read_manifest(store or self.store, "run", step).attempt, path)

    def own_path(self, record: JobRecord, path: str) -> str:
        """Where a job that saves would write this file."""
        return file_path("run", record.spec["step"], record.id, path)

    def contents(self, step: int, store: Store | None = None) -> dict[str, bytes]:
        """What a reader of the manifest finds."""
        found = store or self.store
        return {f.path: found.read(self.at(step, f.path, found)) for f in read_manifest(found, "run", step).files}

    def unfinished(self, store: Store | None = None) -> list[str]:
        """Files in parts that were begun, and neither finished nor dropped."""
        parted = (store or self.store).parted
        assert parted is not None
        return [found.path for found in parted.unfinished("checkpoints")]

    def flip(self, step: int, path: str) -> None:
        """Damage a file of a committed step."""
        data = bytearray(self.store.read(self.at(step, path)))
        data[len(data) // 2] ^= 1
        self.store.upload(self.at(step, path), [bytes(data)])
