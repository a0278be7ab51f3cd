"""A watched folder: files that are dropped there become jobs.

A file is taken when it is whole: nobody has it open for writing, or, where that can't be seen, it has not changed
for a while. Then it is submitted under a key made from its identity, so a restart or a second watcher finds the
same job, and is moved to `done/`; a refused one goes to `rejected/`, beside a `.error.json` that says why.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import orjson

from ...storage.errors import HoldshortError, RefusedJob, SettingsError, StoreError
from ..client import Client
from ..input import RefusedInput
from ..settings import Settings
from ..spec import BatchInferenceJob
from .identity import FileIdentity, identify, is_being_written, is_unfinished_name

log = logging.getLogger(__name__)

DONE, REJECTED = "done", "rejected"
QUIET_S = 2.0
"""How long a file must not have changed, where it can't be seen whether somebody writes it."""
_LOOK_MS = 100
"""The folder is listed so often besides the events: they may be lost, and a file may be whole some time after."""
_STEP_MS = 20
_RETRY_S = 5.0


class FolderTrigger:
    """Watches one folder (not those below it) for one pool.

    Args:
        poll: do not use file system events, only list the folder.

    Raises:
        SettingsError: the folder does not exist, or is the store or inside of it.
    """

    def __init__(self, settings: Settings, folder: Path, pool: str, *, poll: bool = False) -> None:
        settings.pool(pool)
        self.folder = folder.absolute()
        self.pool = pool
        self._client = Client(settings=settings)
        self._poll = poll
        self._waiting: dict[str, tuple[FileIdentity, float]] = {}
        self._failed_until: dict[str, float] = {}
        if not self.folder.is_dir():
            raise SettingsError(f"The folder {self.folder}, which is to be watched, does not exist; make it first.")
        store = self._client.ledger.store.url
        if store.startswith("file://") and self.folder.resolve().is_relative_to(
            Path(store.removeprefix("file://")).resolve()
        ):
            raise SettingsError(
                f"The folder {self.folder} lies in the store {store}; results would become jobs. Watch another one."
            )

    def run(self, stop: threading.Event) -> None:
        """Watch until told to stop."""
        log.info("watching %s for pool %s", self.folder, self.pool)
        while not stop.is_set():
            try:
                for _ in self._moments(stop):
                    self.look()
            except OSError as error:
                log.warning("the folder %s can't be watched (%s); it is tried again", self.folder, error)
                stop.wait(_RETRY_S)
        self._client.close()

    def look(self) -> list[str]:
        """Take every file that is whole; returns the ids of the jobs they became."""
        taken: list[str] = []
        names: set[str] = set()
        try:
            entries = sorted(entry.name for entry in self.folder.iterdir())
        except OSError as error:
            log.warning("the watched folder %s can't be listed: %s", self.folder, error)
            return taken
        for name in entries:
            if is_unfinished_name(name) or time.monotonic() < self._failed_until.get(name, 0.0):
                continue
            path = self.folder / name
            identity = identify(path)
            if identity is None:
                continue
            names.add(name)
            if self._is_whole(path, identity):
                job_id = self._take(path, identity)
                if job_id is not None:
                    taken.append(job_id)
        for name in self._waiting.keys() - names:
            del self._waiting[name]
        return taken

    # -- inside ------------------------------------------------------------------------------------------

    def _moments(self, stop: threading.Event) -> Iterator[None]:
        """When to look: at once, at each event, and every so often besides."""
        yield
        if self._poll:
            while not stop.wait(_LOOK_MS / 1000):
                yield
            return
        import watchfiles

        yield from (
            None
            for _ in watchfiles.watch(
                self.folder,
                watch_filter=None,
                debounce=_STEP_MS,
                step=_STEP_MS,
                stop_event=stop,
                recursive=False,
                yield_on_timeout=True,
                rust_timeout=_LOOK_MS,
                raise_interrupt=False,
            )
        )

    def _is_whole(self, path: Path, identity: FileIdentity) -> bool:
        known = self._waiting.get(path.name)
        now = time.monotonic()
        if known is None or known[0] != identity:
            self._waiting[path.name] = known = (identity, now)
        if identity.size_bytes == 0 and now - known[1] < QUIET_S:
            return False  # somebody may have just made it, to write into it next
        writing = is_being_written(path)
        if writing is None:
            return now - known[1] >= QUIET_S
        # It may have been written between the two looks.
        return not writing and identify(path) == identity

    def _take(self, path: Path, identity: FileIdentity) -> str | None:
        job = BatchInferenceJob(
            pool=self.pool,
            input=path,
            idempotency_key=identity.key,
            metadata={"source": path.name[:512]},
        )
        try:
            submitted = self._client.submit(job)
        except RefusedJob as error:
            self._reject(path, identity, error)
            return None
        except (StoreError, HoldshortError) as error:
            log.warning("%s waits: %s", path, error)
            self._failed_until[path.name] = time.monotonic() + _RETRY_S
            return None
        log.info("%s is job %s", path.name, submitted.id)
        if identify(path) in (identity, None):
            self._move(path, DONE, submitted.id)
        else:
            # Moving it would lose what is there now: it is another file, and becomes a job of its own.
            log.warning("%s changed while it was read; job %s has what was there first", path, submitted.id)
        return submitted.id

    def _reject(self, path: Path, identity: FileIdentity, error: RefusedJob) -> None:
        problems = [
            {"where": problem.where, "code": problem.code, "message": problem.message, "cure": problem.cure}
            for problem in (error.problems if isinstance(error, RefusedInput) else ())
        ]
        if identify(path) != identity:
            return  # what was refused is not there any more
        log.warning("%s is rejected: %s", path.name, error)
        moved = self._move(path, REJECTED, identity.key.rpartition(":")[2])
        if moved is not None:
            report = {"file": path.name, "message": str(error), "problems": problems}
            moved.with_name(f"{moved.name}.error.json").write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))

    def _move(self, path: Path, where: str, distinction: str) -> Path | None:
        """Move a file away; one of that name that is there already stays, ours gets a longer name."""
        folder = self.folder / where
        target = folder / path.name
        try:
            folder.mkdir(exist_ok=True)
            if target.exists():
                target = folder / f"{path.stem}.{distinction}{path.suffix}"
            path.rename(target)
        except FileNotFoundError:
            return None  # another watcher was first
        except OSError as error:
            log.warning("%s can't be moved to %s: %s; it is not submitted again meanwhile", path, folder, error)
            self._failed_until[path.name] = time.monotonic() + 60 * _RETRY_S
            return None
        finally:
            self._waiting.pop(path.name, None)
        return target
