"""torch.distributed.checkpoint on committed steps: verified, and visible as a whole or not at all.

    import torch.distributed.checkpoint as dcp
    from holdshort.storage.checkpoints.torch_dcp import HoldshortReader, HoldshortWriter

    dcp.save(state, storage_writer=HoldshortWriter("checkpoint::s3://bucket/runs/7", step=1000))
    dcp.load(state, storage_reader=HoldshortReader("checkpoint::s3://bucket/runs/7"))

The ranks need nothing but what torch sends between them anyway. The content is torch's own, pickled metadata included:
load only what you trust.
"""

from __future__ import annotations

import io
import os
import queue
import threading
import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...profiles import CHECKPOINT, resolve
from ..checksums import Sum
from ..errors import Corrupt, MissingExtra, NotAllowedNow, ObjectNotFound
from ..store import Store
from .attempts import Attempt
from .by_url import Step, newest_whole
from .manifest import CopiedFile, Manifest, file_path, read_manifest
from .restoring import read_file
from .runs import run_at
from .uploading import of_views, upload

try:
    from torch.distributed.checkpoint.filesystem import FileSystemBase, FileSystemReader, FileSystemWriter
    from torch.distributed.checkpoint.storage import WriteResult
    from torch.futures import Future
except ImportError as error:
    raise MissingExtra("torch.distributed.checkpoint", extra="torch", module=error.name or "torch") from error

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import Metadata
    from torch.distributed.checkpoint.planner import LoadPlan, SavePlan, SavePlanner

_PART_BYTES = resolve(CHECKPOINT).access.part_bytes
_PARTS_WAITING = 4
_PATIENCE_S = 300.0


class HoldshortWriter(FileSystemWriter):
    """Writes one step of a run; the coordinator commits it when all ranks have written.

    Args:
        url: of the run, as for `checkpoints.save`.
        step: a committed one is never overwritten.
        patience_s: how long to try again while the store does not answer; a file of tensors is written only once.
        single_file_per_rank, thread_count, per_thread_copy_ahead: see torch's FileSystemWriter.

    What goes wrong is raised on all ranks, by torch as a CheckpointException. Nothing is visible then.
    """

    def __init__(
        self,
        url: str | Path,
        step: int,
        *,
        storage_options: Mapping[str, Any] | None = None,
        patience_s: float = _PATIENCE_S,
        single_file_per_rank: bool = True,
        thread_count: int = 1,
        per_thread_copy_ahead: int = 10_000_000,
    ) -> None:
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            str(step), single_file_per_rank=single_file_per_rank, sync_files=False, thread_count=thread_count,
            per_thread_copy_ahead=per_thread_copy_ahead,
        )  # fmt: skip
        self._run = run_at(url, storage_options)
        self._step = step
        self._patience_s = patience_s
        self._attempt: Attempt | None = None
        self._written = _Written(self._run.store, patience_s)
        self.fs = self._written
        self.path = f"{self._run.url}/{step}"

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        if checkpoint_id:
            raise NotAllowedNow(
                f"{checkpoint_id}: the step is said where the writer is made, as in HoldshortWriter(url, step=1000); "
                f"leave checkpoint_id away."
            )
        self._abandon()

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        super().set_up_storage_writer(is_coordinator, *args, **kwargs)
        if not self.use_collectives:
            raise NotAllowedNow("A step is committed by one rank for all, so use_collectives=False can't be used.")

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """On the coordinator: begin an attempt, and tell the ranks of it by their plans."""
        self._abandon()
        attempt = Attempt(self._run.store, self._run.name, self._step, patience_s=self._patience_s)
        attempt.begin()
        self._attempt = attempt
        weakref.finalize(self, attempt.stop_renewing)
        return [replace(plan, storage_data=_Place(f"__{rank}_", attempt.attempt)) for rank, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        place = cast("_Place", plan.storage_data)
        self._written.begin(self._run.name, self._step, place.attempt)
        results = super().write_data(plan, planner).wait()
        if len(results) != len(plan.items):  # torch's threads keep to themselves what they failed with
            raise self._written.error or Corrupt(f"only {len(results)} of {len(plan.items)} items were written")
        files = self._written.files
        named = [
            _Result(result.index, result.size_in_bytes, result.storage_data, files if place_ == 0 else ())
            for place_, result in enumerate(results)
        ]
        future: Future[list[WriteResult]] = Future()
        future.set_result(cast("list[WriteResult]", named))
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """On the coordinator: write torch's metadata, and commit."""
        attempt = self._attempt
        assert attempt is not None
        try:
            self._written.begin(self._run.name, self._step, attempt.attempt)
            super().finish(metadata, results)
            written = [file for each in results for one in each for file in cast("_Result", one).files]
            attempt.commit([*written, *self._written.files], timeout_s=0)
        except BaseException as error:
            attempt.give_up_quietly(f"the coordinator failed: {type(error).__name__}: {error}")
            raise
        finally:
            self._attempt = None

    def _abandon(self) -> None:
        """An earlier try, which a rank has failed in; torch does not tell us when it does."""
        if self._attempt is not None:
            self._attempt.abandon("a rank failed")
            self._attempt = None

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return False  # of a path alone no step can be made


class HoldshortReader(FileSystemReader):
    """Reads a committed step. Each file is checked against its CRC32C before anything of it is handed out.

    Args:
        url: of the run, as for `checkpoints.save`.
        step: "latest" is the newest that is whole, for which all of it is read first. Several ranks should be told
            the step: let one of them ask `checkpoints.newest_whole(url).step`, and broadcast it.

    Raises Corrupt and ObjectNotFound as `checkpoints.restore` does, when torch asks for the metadata.
    """

    def __init__(
        self, url: str | Path, step: Step = "latest", *, storage_options: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(str(step))  # pyright: ignore[reportUnknownMemberType]
        self._run = run_at(url, storage_options)
        self._asked = url, step, storage_options
        self._stored: _Stored | None = None
        self.path = f"{self._run.url}/{step}"

    @property
    def step(self) -> int | None:
        """Which step it reads; None until that was found out."""
        return self._stored.manifest.step if self._stored is not None else None

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        if checkpoint_id:
            raise NotAllowedNow(
                f"{checkpoint_id}: the step is said where the reader is made; leave checkpoint_id away."
            )
        super().reset()  # pyright: ignore[reportUnknownMemberType]

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        url, step, options = self._asked
        if step == "latest":
            manifest = newest_whole(url, storage_options=options)
        else:
            manifest = read_manifest(self._run.store, self._run.name, step)
        self._stored = _Stored(self._run.store, manifest)
        self.fs = self._stored
        return super().read_metadata()

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return replace(plan, storage_data=self.step)

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        found = {plan.storage_data for plan in plans}
        if len(found) > 1:
            raise NotAllowedNow(
                f"The ranks found different newest steps ({found}), as one was just committed. Let one rank ask for "
                f"it, and tell the others."
            )
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return False


@dataclass(frozen=True)
class _Place:
    """Where a rank writes."""

    prefix: str
    attempt: str


@dataclass(frozen=True)
class _Result(WriteResult):
    """A result, of which the first of a rank tells what files there are."""

    files: Sequence[CopiedFile] = ()


class _Written(FileSystemBase):
    """The file system that a rank writes to: the folder of an attempt."""

    def __init__(self, store: Store, patience_s: float) -> None:
        self._store, self._patience_s = store, patience_s
        self._where: tuple[str, int, str] = ("", 0, "")
        self._lock = threading.Lock()
        self._files: list[CopiedFile] = []
        self._aside: dict[str, bytes] = {}
        self.error: BaseException | None = None

    def begin(self, name: str, step: int, attempt: str) -> None:
        self._where = name, step, attempt
        self._files, self._aside, self.error = [], {}, None

    @property
    def files(self) -> tuple[CopiedFile, ...]:
        """What was written since `begin`."""
        return tuple(self._files)

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[io.IOBase, None, None]:
        name = os.fspath(path)
        if name.endswith(".tmp"):  # the metadata, which is small, and gets its name by being renamed
            with io.BytesIO() as buffer:
                buffer.close = lambda: None
                yield buffer
                self._aside[name] = buffer.getvalue()
            return
        stream = _Upload(self._store, self._at(name))
        try:
            yield stream
            sums = stream.finish()
        except BaseException as error:
            self.error = error
            stream.abort()
            raise
        with self._lock:
            self._files.append(CopiedFile(name, sums.size_bytes, sums.crc32c))

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        data = self._aside.pop(os.fspath(path))
        source = of_views(os.fspath(new_path), len(data), lambda: [memoryview(data)])
        self._files += upload(
            self._store, self._at, [source], patience_s=self._patience_s, progress=lambda done, total: None
        )

    def concat_path(self, path: str | os.PathLike[str], suffix: str) -> str:
        return suffix

    def init_path(self, path: str | os.PathLike[str]) -> str | os.PathLike[str]:
        return path

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        return

    def exists(self, path: str | os.PathLike[str]) -> bool:
        return False

    def rm_file(self, path: str | os.PathLike[str]) -> None:
        return

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return False

    def _at(self, path: str) -> str:
        name, step, attempt = self._where
        return file_path(name, step, attempt, path)


class _Stored(FileSystemBase):
    """The file system that a rank reads from: the files of a committed step."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self._store = store
        self.manifest = manifest
        self._files = {file.path: file for file in manifest.files}

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[io.IOBase, None, None]:
        name = os.fspath(path)
        if name not in self._files:
            raise ObjectNotFound(f"Step {self.manifest.step} of {self.manifest.name} has no file {name}.")
        yield _Memory(read_file(self._store, self.manifest, self._files[name]))

    def concat_path(self, path: str | os.PathLike[str], suffix: str) -> str:
        return suffix

    def init_path(self, path: str | os.PathLike[str]) -> str | os.PathLike[str]:
        return path

    def exists(self, path: str | os.PathLike[str]) -> bool:
        return os.fspath(path) in self._files

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        raise NotAllowedNow("A committed step does not change.")

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        raise NotAllowedNow("A committed step does not change.")

    def rm_file(self, path: str | os.PathLike[str]) -> None:
        raise NotAllowedNow("A committed step does not change.")

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return False


class _Stopped(Exception):
    """The stream was given up."""


class _Upload(io.RawIOBase):
    """A file that is uploaded while it is written, a few parts behind."""

    def __init__(self, store: Store, at: str) -> None:
        super().__init__()
        self._sums = Sum()
        self._gathered = bytearray()
        self._written = 0
        self._parts: queue.Queue[bytes | None] = queue.Queue(_PARTS_WAITING)
        self._is_stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(store, at), name="checkpoint upload", daemon=True)
        self._thread.start()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._gathered += view
        self._written += len(view)
        while len(self._gathered) >= _PART_BYTES:
            self._pass_on(bytes(self._gathered[:_PART_BYTES]))
            del self._gathered[:_PART_BYTES]
        return len(view)

    def tell(self) -> int:
        return self._written

    def close(self) -> None:
        """Nothing: `finish` or `abort` ends it."""

    def finish(self) -> Sum:
        """Wait until it is all in the store."""
        if self._gathered:
            self._pass_on(bytes(self._gathered))
        self._pass_on(None)
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._sums

    def abort(self) -> None:
        """Leave nothing of it."""
        self._is_stopped = True
        while self._thread.is_alive():
            with suppress(queue.Full):
                self._parts.put(None, timeout=0.1)
                break
        self._thread.join()

    def _pass_on(self, part: bytes | None) -> None:
        if part is not None:
            self._sums.add(part)
        while self._error is None:
            with suppress(queue.Full):
                self._parts.put(part, timeout=0.1)
                return
        raise self._error

    def _run(self, store: Store, at: str) -> None:
        try:
            store.upload(at, self._handed())
        except BaseException as error:  # noqa: BLE001 - raised by whoever writes
            self._error = error

    def _handed(self) -> Iterator[bytes]:
        while True:
            part = self._parts.get()
            if self._is_stopped:
                raise _Stopped
            if part is None:
                return
            yield part


class _Memory(io.RawIOBase):
    """A file that is in memory."""

    def __init__(self, memory: memoryview) -> None:
        super().__init__()
        self._memory = memory
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._memory.nbytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        room = memoryview(buffer).cast("B")
        part = self._memory[self._position : self._position + len(room)]
        room[: len(part)] = part
        self._position += len(part)
        return len(part)
