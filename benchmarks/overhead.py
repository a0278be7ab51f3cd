"""What Holdshort costs beside a plain loop, and how soon a first row is there.

    python benchmarks/overhead.py [--quick]

Jobs run through a real worker process on the embedded broker and a local store; the plain loop reads the same file,
calls the same engine and writes the same lines in one process. The two take turns, and ratios are taken pair by pair.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

import reporting
from holdshort.jobs import BatchInferenceJob, Client, Job, Settings, UnknownJob
from holdshort.jobs.rows import Row, RowError
from holdshort.jobs.settings import PoolSettings
from holdshort.jobs.triggers.folder import FolderTrigger
from holdshort.workers.engines import registry
from holdshort.workers.engines.protocol import Engine

HERE = Path(__file__).parent
ENGINES: dict[str, tuple[str, dict[str, Any]]] = {
    "null": ("function", {"target": "functions:null"}),
    "minilm": ("minilm", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows and repeats")
    quick: bool = parser.parse_args().quick
    found: dict[str, Any] = {"quick": quick}
    with tempfile.TemporaryDirectory(prefix="holdshort-bench-") as folder:
        root = Path(folder)
        sys.path.insert(0, str(HERE))
        for pool, rows in (("null", 20_000 if quick else 100_000), ("minilm", 150 if quick else 600)):
            found[f"rows_{pool}"] = throughput(root, pool, rows, repeats=3 if quick else 5)
        found["latency"] = latency(root, 30 if quick else 200)
        found["submit"] = {"disk": submit_rate(root, 300 if quick else 2000)}
        if Path("/dev/shm").is_dir():
            with tempfile.TemporaryDirectory(prefix="holdshort-bench-", dir="/dev/shm") as memory:
                found["submit"]["memory"] = submit_rate(Path(memory), 300 if quick else 2000)
        found["import"] = start_up()
    show(found)
    reporting.write("overhead", found)
    groups = {
        f"rows/s, engine {pool}": {
            "plain loop": found[f"rows_{pool}"]["loop_rows_per_s"]["median"],
            "job": found[f"rows_{pool}"]["job_rows_per_s"]["median"],
        }
        for pool in ENGINES
    }
    reporting.bars("overhead", "A job beside a plain loop", groups, unit="rows/s")


# -- throughput ------------------------------------------------------------------------------------------


def throughput(root: Path, pool: str, rows: int, *, repeats: int) -> dict[str, Any]:
    """Rows/s of the plain loop and of a job, in turn."""
    source = root / f"{pool}.jsonl"
    with source.open("wb") as file:
        for number in range(rows):
            file.write(orjson.dumps({"custom_id": f"r{number}", "body": {"input": text(number)}}) + b"\n")
    engine = registry.create(*ENGINES[pool])
    engine.load()
    loops: list[float] = []
    jobs: list[float] = []
    whole: list[float] = []
    settings = settings_for(root / f"home-{pool}", pool)
    with Client(settings=settings) as client, worker(settings, pool):
        run_job(client, pool, source)  # warm-up of the worker
        plain_loop(engine, source, root / "out.jsonl")
        for _ in range(repeats):
            loops.append(rows / plain_loop(engine, source, root / "out.jsonl"))
            ran, total = run_job(client, pool, source)
            jobs.append(rows / ran)
            whole.append(rows / total)
    engine.close()
    ratios = [job / loop for job, loop in zip(jobs, loops, strict=True)]
    return {
        "rows": rows,
        "loop_rows_per_s": reporting.spread(loops),
        "job_rows_per_s": reporting.spread(jobs),
        "submit_to_last_result_rows_per_s": reporting.spread(whole),
        "ratio": reporting.spread(ratios),
    }


def plain_loop(engine: Engine, source: Path, target: Path) -> float:
    """Seconds to read, call and write without Holdshort: single units, in the order of the file."""
    begin = time.perf_counter()
    with source.open("rb") as lines, target.open("wb") as out:
        for index, line in enumerate(lines):
            found = orjson.loads(line)
            row = Row(index, found["custom_id"], found["body"])
            units = engine.units(row)
            if isinstance(units, RowError):
                raise TypeError(units.message)
            body = engine.finish(row, list(engine.infer(units)))
            answer = {"custom_id": row.custom_id, "response": {"status_code": 200, "body": body}, "error": None}
            out.write(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")
    return time.perf_counter() - begin


def run_job(client: Client, pool: str, source: Path) -> tuple[float, float]:
    """Seconds from the first turn to the outcome, and from submit to the last result read."""
    begin = time.perf_counter()
    job = client.submit(BatchInferenceJob(pool=pool, input=source, max_parallelism=1))
    status = job.wait(timeout=600)
    for _ in job.results():
        pass
    total = time.perf_counter() - begin
    if not status.all_ok:
        raise RuntimeError(f"the job ended as {status.state} with {status.counts}")
    first = min(
        orjson.loads(client.ledger.store.read(f"jobs/{job.id}/turns/{name}"))["taken_at"]
        for name in client.ledger.store.list(f"jobs/{job.id}/turns")
    )
    return (status.ended_at or 0.0) - first, total


# -- latency ---------------------------------------------------------------------------------------------


def latency(root: Path, trials: int) -> dict[str, Any]:
    """Submit → first row readable, and file dropped → first row readable, on an idle system (ms)."""
    settings = settings_for(root / "home-latency", "null")
    inbox = root / "inbox"
    inbox.mkdir()
    submitted: list[float] = []
    dropped: list[float] = []
    stop = threading.Event()
    with Client(settings=settings) as client, worker(settings, "null"):
        first_row(client.submit(BatchInferenceJob(pool="null", input=["warm up"])))
        for _ in range(trials):
            begin = time.perf_counter()
            first_row(client.submit(BatchInferenceJob(pool="null", input=["one row"])))
            submitted.append((time.perf_counter() - begin) * 1000)
        trigger = FolderTrigger(settings, inbox, "null")
        thread = threading.Thread(target=trigger.run, args=(stop,))
        thread.start()
        known = set(client.ledger.jobs())
        for number in range(trials // 4):
            begin = time.perf_counter()
            (inbox / f"{number}.jsonl").write_text(json.dumps({"input": "one row"}) + "\n")
            while not (fresh := set(client.ledger.jobs()) - known):
                time.sleep(0.001)
            known |= fresh
            (job_id,) = fresh
            while True:
                try:
                    job = client.job(job_id)
                    break
                except UnknownJob:  # its folder is there a moment before the job
                    time.sleep(0.001)
            first_row(job)
            dropped.append((time.perf_counter() - begin) * 1000)
        stop.set()
        thread.join()
    return {"submit_to_first_row_ms": quantiles(submitted), "drop_to_first_row_ms": quantiles(dropped)}


def first_row(job: Job) -> None:
    """Wait until the first result can be read."""
    path = f"jobs/{job.id}/shards"
    store = job._ledger.store  # polled faster than Job.results does
    while not store.list(path):
        time.sleep(0.0005)
    next(iter(job.results(follow=False)))


def submit_rate(root: Path, count: int) -> dict[str, Any]:
    """Jobs of one row: accepted and published per second, by one client."""
    settings = settings_for(root / "home-submit", "null")
    with Client(settings=settings) as client:
        client.submit(BatchInferenceJob(pool="null", input=["warm up"]))
        begin = time.perf_counter()
        for _ in range(count):
            client.submit(BatchInferenceJob(pool="null", input=["one row"], max_parallelism=1))
        submit_s = time.perf_counter() - begin
        with worker(settings, "null"):
            begin = time.perf_counter()
            while any(True for _ in client.ledger.active()):
                time.sleep(0.01)
            drain_s = time.perf_counter() - begin
    return {"jobs": count, "submitted_per_s": count / submit_s, "drained_per_s": count / drain_s}


def start_up() -> dict[str, Any]:
    """Seconds to import the SDK and to show the help (median of 10)."""
    commands = {
        "import holdshort.jobs": [sys.executable, "-c", "import holdshort.jobs"],
        "from holdshort.jobs import BatchInferenceJob, Client": [
            sys.executable, "-c", "from holdshort.jobs import BatchInferenceJob, Client",
        ],
        "holdshort --help": [str(Path(sys.executable).parent / "holdshort"), "--help"],
        "python -c pass": [sys.executable, "-c", "pass"],
    }  # fmt: skip
    found: dict[str, Any] = {}
    for name, command in commands.items():
        times: list[float] = []
        for _ in range(10):
            begin = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")
            times.append((time.perf_counter() - begin) * 1000)
        found[name] = reporting.spread(times)
    return found


# -- shared ----------------------------------------------------------------------------------------------


def text(number: int) -> str:
    """About forty words, unlike the others."""
    words = ("runway", "holding", "point", "clearance", "tower", "traffic", "queue", "shard", "worker", "lane")
    return " ".join(words[(number * 7 + place * place) % len(words)] for place in range(40)) + f" {number}"


def settings_for(home: Path, pool: str) -> Settings:
    home.mkdir()
    name, options = ENGINES[pool]
    pools = {pool: PoolSettings(engine=name, options=options)}
    return Settings(broker=f"embedded://{home}/broker.db", store=str(home / "store"), pools=pools)


@contextmanager
def worker(settings: Settings, pool: str) -> Iterator[None]:
    """A worker process, ready."""
    environment = {
        **os.environ,
        "HOLDSHORT_BROKER": settings.broker,
        "HOLDSHORT_STORE": settings.store,
        "HOLDSHORT_POOLS": json.dumps({name: found.model_dump() for name, found in settings.pools.items()}),
        "PYTHONPATH": str(HERE),
    }
    log = Path(settings.store).parent / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "holdshort.cli", "worker", pool], env=environment, stdout=output, stderr=output
        )
    try:
        while "serves pool" not in log.read_text():
            if process.poll() is not None:
                raise RuntimeError(log.read_text())
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


def quantiles(values: list[float]) -> dict[str, float]:
    return {
        "p50": reporting.quantile(values, 0.5),
        "p99": reporting.quantile(values, 0.99),
        "max": max(values),
        "trials": len(values),
    }


def show(found: dict[str, Any]) -> None:
    rows = [
        (
            pool,
            found[f"rows_{pool}"]["rows"],
            f"{found[f'rows_{pool}']['loop_rows_per_s']['median']:,.0f}",
            f"{found[f'rows_{pool}']['job_rows_per_s']['median']:,.0f}",
            f"{found[f'rows_{pool}']['submit_to_last_result_rows_per_s']['median']:,.0f}",
            "{median:.3f} ({min:.3f} to {max:.3f})".format(**found[f"rows_{pool}"]["ratio"]),
        )
        for pool in ENGINES
    ]
    columns = ("engine", "rows", "loop rows/s", "job rows/s", "submit to last result", "job ÷ loop")
    reporting.table("Throughput", columns, rows)
    reporting.table(
        "Latency on an idle system (ms)",
        ("what", "p50", "p99", "max", "trials"),
        [
            (name.removesuffix("_ms").replace("_", " "), *(f"{value:.1f}" for value in values.values()))
            for name, values in found["latency"].items()
        ],
    )
    reporting.table(
        "Jobs of one row",
        ("store and broker on", "jobs", "submitted/s", "drained/s"),
        [
            (place, rates["jobs"], f"{rates['submitted_per_s']:,.0f}", f"{rates['drained_per_s']:,.0f}")
            for place, rates in found["submit"].items()
        ],
    )
    reporting.table(
        "Starting (ms, median of 10)",
        ("what", "median", "min", "max"),
        [(name, *(f"{value[key]:.0f}" for key in ("median", "min", "max"))) for name, value in found["import"].items()],
    )


if __name__ == "__main__":
    main()
