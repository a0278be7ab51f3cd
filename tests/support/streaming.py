"""What the test of large inputs runs, each in a process of its own, so that each has its own peak of memory.

python -m support.streaming submit FILE        prints {"job", "rows", "seconds", "peak_mb"}
python -m support.streaming read JOB           prints {"rows", "bytes", "seconds", "peak_mb"}
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from holdshort.jobs import BatchInferenceJob, Client, Settings

ROW_BYTES = 2000
_WORDS = (
    "hold",
    "short",
    "runway",
    "traffic",
    "clearance",
    "taxi",
    "lane",
    "tower",
    "gate",
    "apron",
    "beacon",
)


def texts(count: int) -> Iterator[str]:
    """Different texts of ROW_BYTES each, that any process can make again."""
    choice = random.Random(20)
    pool = " ".join(choice.choice(_WORDS) + str(choice.randrange(10**6)) for _ in range(20_000))
    for number in range(count):
        start = (number * 7919) % (len(pool) - ROW_BYTES)
        yield f"{number} {pool[start : start + ROW_BYTES]}"[:ROW_BYTES]


def write_input(path: Path, count: int) -> int:
    """Write a JSON Lines file of so many rows; returns its size in bytes."""
    with path.open("w") as file:
        for number, text in enumerate(texts(count)):
            file.write(f'{{"custom_id": "row-{number}", "input": "{text}"}}\n')
    return path.stat().st_size


def peak_mb(pid: int | str = "self") -> float:
    """The most memory that a process has had resident. Unlike getrusage, nothing of who started it counts."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"process {pid} has no VmHWM")


def _submit(path: str) -> dict[str, object]:
    with Client(settings=Settings.load()) as client:
        job = client.submit(BatchInferenceJob(pool="embed", input=path, max_parallelism=1))
        return {"job": job.id, "rows": job.record.rows}


def _read(job_id: str) -> dict[str, object]:
    rows = size = 0
    with Client(settings=Settings.load()) as client:
        job = client.job(job_id)
        wanted = texts(job.record.rows)
        for row, text in zip(job.results(), wanted, strict=True):
            data = row.data
            assert data["custom_id"] == f"row-{rows}"
            assert data["response"]["body"] == {"echo": text}
            rows += 1
            size += len(row.line)
    return {"rows": rows, "bytes": size}


if __name__ == "__main__":
    begin = time.perf_counter()
    found = {"submit": _submit, "read": _read}[sys.argv[1]](sys.argv[2])
    print(json.dumps({**found, "seconds": time.perf_counter() - begin, "peak_mb": peak_mb()}))
