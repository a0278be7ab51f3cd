"""AsyncClient does what Client does, and never blocks the event loop or outlives it."""

from __future__ import annotations

import asyncio
import inspect
import threading

import pytest

from holdshort.jobs import AsyncClient, AsyncJob, BatchInferenceJob, Client, Job, Settings
from support.checks import rows
from support.holdshort import Processes


def _signatures(kind: type) -> dict[str, list[str]]:
    found = inspect.getmembers(kind, inspect.isfunction)
    return {name: list(inspect.signature(f).parameters) for name, f in found if not name.startswith("_")}


@pytest.mark.parametrize(("plain", "awaited"), [(Client, AsyncClient), (Job, AsyncJob)])
def test_both_have_the_same_methods_with_the_same_parameters(plain: type, awaited: type) -> None:
    assert _signatures(plain) == _signatures(awaited)


def test_a_job_goes_its_way(settings: Settings, processes: Processes) -> None:
    async def go() -> None:
        async with AsyncClient(settings=settings) as client:
            job = await client.submit(BatchInferenceJob(pool="embed", input=rows(60), shard_rows=10))
            assert (await job.status()).state == "queued"
            assert "No worker is alive" in await job.why()
            assert await job.pause()
            assert await job.resume()
            await asyncio.to_thread(processes.worker)
            found = [row.custom_id async for row in job.results()]
            assert found == [row["custom_id"] for row in rows(60)]
            seen: list[int] = []
            status = await job.poll(lambda status: seen.append(status.done), timeout=30)
            assert (status.all_ok, seen[-1]) == (True, 60)
            assert (await job.wait(progress=True)).all_ok
            assert [status.id async for status in client.jobs()] == [job.id]
            assert [status.id async for status in client.jobs(active=True)] == []
            assert (await client.job(job.id[:10])).id == job.id
            (pool, _) = await client.pools()
            assert len(pool.workers) == 1
            assert (await client.hold("embed", for_s=60, reason="test")).reason == "test"
            assert (await client.lane("embed")) is not None
            assert await client.clear("embed")
            doomed = await client.submit(BatchInferenceJob(pool="slow", input=["a"]))
            assert await client.cancel(doomed.id, "no")
            assert (await client.retry(doomed.id)).record.rows == 1
            assert len(await client.recover()) == 1

    asyncio.run(go())


@pytest.mark.timeout(30)
def test_a_wait_or_a_reading_that_is_given_up_leaves_no_thread_behind(settings: Settings) -> None:
    async def go() -> None:
        async with AsyncClient(settings=settings) as client:
            job = await client.submit(BatchInferenceJob(pool="embed", input=["a"]))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(job.wait(), timeout=0.1)
            with pytest.raises(TimeoutError, match="it runs on"):
                await job.wait(timeout=0.1)

            async def read() -> None:
                async for _ in job.results():
                    pass

            with pytest.raises(TimeoutError):
                await asyncio.wait_for(read(), timeout=0.1)
            assert (await job.status()).state == "queued"

    # It returns once the loop's threads have ended; nobody ever runs that job.
    asyncio.run(go())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("asyncio")]


def test_the_loop_goes_on_while_a_slow_input_is_submitted(settings: Settings) -> None:
    looked = threading.Event()

    def generate() -> object:
        yield "a"
        assert looked.wait(timeout=20), "the loop stood still"
        yield "b"

    async def go() -> int:
        async with AsyncClient(settings=settings) as client:
            submitting = asyncio.create_task(client.submit(BatchInferenceJob(pool="embed", input=generate())))
            await asyncio.sleep(0)
            looked.set()
            return (await submitting).record.rows

    assert asyncio.run(go()) == 2
