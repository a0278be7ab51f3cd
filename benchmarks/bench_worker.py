"""A real worker on the embedding model with work that does not end, and what its trace says of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdshort.jobs import BatchInferenceJob, Client, Job, Settings
from holdshort.jobs.settings import PoolSettings

POOL = "embed"
DOCUMENTS = 20_000
_WORDS = ("runway", "holding", "point", "clearance", "tower", "traffic", "queue", "shard", "worker", "lane")


def settings_for(home: Path, *, broker: str | None = None, threads: int | None = None, **more: Any) -> Settings:
    """A store, broker and lane folder of this benchmark's own, and one pool with the embedding model."""
    home.mkdir(parents=True)
    options = {} if threads is None else {"threads": threads}
    return Settings(
        broker=broker or f"embedded://{home}/broker.db",
        store=str(home / "store"),
        pools={POOL: PoolSettings(engine="minilm", options=options)},
        lane_folder=home / "lane",
        trace_folder=home / "trace",
        **more,
    )


def environment_of(settings: Settings) -> dict[str, str]:
    """Environment variables by which a process of ours gets these settings."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("HOLDSHORT_")},
        "HOLDSHORT_BROKER": settings.broker,
        "HOLDSHORT_STORE": settings.store,
        "HOLDSHORT_POOLS": json.dumps({name: pool.model_dump() for name, pool in settings.pools.items()}),
        "HOLDSHORT_LANE_FOLDER": str(settings.lane_folder),
        "HOLDSHORT_TRACE_FOLDER": str(settings.trace_folder),
        **({} if settings.lane_fanout is None else {"HOLDSHORT_LANE_FANOUT": str(settings.lane_fanout)}),
    }


@contextmanager
def busy_worker(settings: Settings) -> Iterator[None]:
    """A worker process that embeds documents of about a hundred words, and has begun."""
    log = Path(settings.store).parent / "worker.log"
    with Client(settings=settings) as client:
        job = client.submit(
            BatchInferenceJob(pool=POOL, input=documents(), priority="bulk", params={"encoding_format": "base64"})
        )
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "holdshort.cli", "worker", POOL],
                env=environment_of(settings), stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        try:
            _until_it_works(settings, job, process, log)
            yield
        finally:
            process.terminate()
            process.wait()


def documents() -> Iterator[dict[str, str]]:
    """Texts of about a hundred words, each unlike the others."""
    for number in range(DOCUMENTS):
        words = (_WORDS[(number * 7 + place * place) % len(_WORDS)] for place in range(100))
        yield {"custom_id": f"d{number}", "input": f"{' '.join(words)} {number}"}


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the trace."""

    at: float
    event: str
    what: dict[str, Any]


def trace(settings: Settings) -> list[Event]:
    """All that the workers have written down so far, in order of time."""
    found: list[Event] = []
    for path in Path(str(settings.trace_folder)).glob("*.jsonl"):
        for line in path.read_text().splitlines():
            what = json.loads(line)
            found.append(Event(what.pop("at"), what.pop("event"), what))
    return sorted(found, key=lambda event: event.at)


def _until_it_works(settings: Settings, job: Job, process: subprocess.Popen[bytes], log: Path) -> None:
    # Until micro-batches have found their size, too.
    while sum(event.event == "ran" for event in trace(settings)) < 100:
        if process.poll() is not None or job.status().has_ended:
            raise RuntimeError(log.read_text())
        time.sleep(0.1)
