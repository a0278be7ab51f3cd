"""The SDK for asyncio: the same names, awaited. Looks at the store run in threads, so the event loop never blocks."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Self, TypeVar, cast

from .client import Client, PoolStatus
from .explain import LaneHold
from .holds import Hold
from .job import Job, still
from .pauses import pauses
from .results import ResultRow
from .settings import Settings
from .spec import BatchInferenceJob, CheckpointJob
from .status import Status

_T = TypeVar("_T")


class AsyncJob:
    """A submitted job; see Job."""

    def __init__(self, job: Job) -> None:
        self.id = job.id
        self.record = job.record
        self._job = job

    def __repr__(self) -> str:
        return f"Async{self._job!r}"

    async def status(self) -> Status:
        return await asyncio.to_thread(self._job.status)

    async def results(self, *, follow: bool = True) -> AsyncIterator[ResultRow]:
        """The rows' results in input order; see Job.results."""
        async for shard in self.result_shards(follow=follow):
            for row in shard:
                yield row

    async def result_shards(self, *, follow: bool = True, first: int = 0) -> AsyncIterator[list[ResultRow]]:
        """The same, a shard at a time; see Job.result_shards."""
        # Waiting is done here, not in a thread: a thread can't be cancelled, and the loop waits for it at its end.
        for pause in pauses():
            async for shard in _in_threads(self._job.result_shards(follow=False, first=first)):
                yield shard
                first += 1
            if not follow or first >= self.record.shards:
                return
            await asyncio.sleep(pause)

    async def wait(self, *, timeout: float | None = None, progress: bool = False) -> Status:  # noqa: ASYNC109 - same names
        """Wait until the job has ended; see Job.wait. Cancelling the task leaves the job running."""
        if not progress:
            return await self.poll(lambda _: None, timeout=timeout)
        from .progress import shown

        with shown(self.id, self.record.rows, self.record.size_bytes) as show:
            return await self.poll(show, timeout=timeout)

    async def poll(self, each: Callable[[Status], None], *, timeout: float | None = None) -> Status:  # noqa: ASYNC109
        """Call `each` with the status until the job has ended; returns the last one."""
        end = None if timeout is None else time.monotonic() + timeout
        for pause in pauses():
            status = await self.status()
            each(status)
            if status.has_ended:
                return status
            left = math.inf if end is None else end - time.monotonic()
            if left <= 0:
                raise TimeoutError(still(status))
            await asyncio.sleep(min(pause, left))
        raise AssertionError("pauses never end")

    async def cancel(self, reason: str = "") -> bool:
        return await asyncio.to_thread(self._job.cancel, reason)

    async def pause(self) -> bool:
        return await asyncio.to_thread(self._job.pause)

    async def resume(self) -> bool:
        return await asyncio.to_thread(self._job.resume)

    async def why(self) -> str:
        return await asyncio.to_thread(self._job.why)


class AsyncClient:
    """Access to the jobs of one store; see Client.

    Example:
        async with AsyncClient() as client:
            job = await client.submit(BatchInferenceJob(pool="embed", input="docs/"))
            async for row in job.results():
                ...
    """

    def __init__(
        self, *, broker: str | None = None, store: str | None = None, settings: Settings | None = None
    ) -> None:
        self._client = Client(broker=broker, store=store, settings=settings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await asyncio.to_thread(self._client.close)

    async def submit(self, job: BatchInferenceJob | CheckpointJob) -> AsyncJob:
        return AsyncJob(await asyncio.to_thread(self._client.submit, job))

    async def job(self, job_id: str) -> AsyncJob:
        return AsyncJob(await asyncio.to_thread(self._client.job, job_id))

    async def jobs(self, *, active: bool = False) -> AsyncIterator[Status]:
        async for status in _in_threads(self._client.jobs(active=active)):
            yield status

    async def cancel(self, job_id: str, reason: str = "") -> bool:
        return await asyncio.to_thread(self._client.cancel, job_id, reason)

    async def pause(self, job_id: str) -> bool:
        return await asyncio.to_thread(self._client.pause, job_id)

    async def resume(self, job_id: str) -> bool:
        return await asyncio.to_thread(self._client.resume, job_id)

    async def retry(self, job_id: str) -> AsyncJob:
        return AsyncJob(await asyncio.to_thread(self._client.retry, job_id))

    async def recover(self) -> list[str]:
        return await asyncio.to_thread(self._client.recover)

    async def why(self, job_id: str, *, lane: LaneHold | None = None) -> str:
        return await asyncio.to_thread(self._client.why, job_id, lane=lane)

    async def pools(self) -> list[PoolStatus]:
        return await asyncio.to_thread(self._client.pools)

    async def hold(self, pool: str, *, for_s: float | None = None, reason: str = "", by: str = "") -> Hold:
        return await asyncio.to_thread(self._client.hold, pool, for_s=for_s, reason=reason, by=by)

    async def clear(self, pool: str) -> bool:
        return await asyncio.to_thread(self._client.clear, pool)

    async def lane(self, pool: str) -> Hold | None:
        return await asyncio.to_thread(self._client.lane, pool)


async def _in_threads(items: Iterator[_T]) -> AsyncIterator[_T]:
    """Items of a blocking iterator, each had in a thread."""
    end = object()
    while (item := await asyncio.to_thread(next, items, end)) is not end:
        yield cast("_T", item)
