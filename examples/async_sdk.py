"""Two jobs at once with the asyncio client: the same names, awaited.

Run `holdshort up` in this folder first. The pool `words` calls the function in own_engine.py.
"""

import asyncio

from holdshort.jobs import AsyncClient, BatchInferenceJob


async def count(client: AsyncClient, name: str, texts: list[str]) -> int:
    """Words in all texts, counted by a job."""
    # The key makes it one job however often this script runs; the second time its results are there already.
    job = await client.submit(BatchInferenceJob(pool="words", input=texts, idempotency_key=f"example {name}"))
    total = 0
    async for row in job.results():
        if row.body is not None:
            total += row.body["words"]
    return total


async def main() -> None:
    async with AsyncClient() as client:
        short, long = await asyncio.gather(
            count(client, "short", ["one", "two words"]),
            count(client, "long", ["hold short of the runway"] * 1000),
        )
        print(f"{short} words and {long} words")


if __name__ == "__main__":
    asyncio.run(main())
