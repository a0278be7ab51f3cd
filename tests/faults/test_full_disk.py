"""The disk is full at each write of a job's life: a submit is refused whole, a worker waits and goes on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = """
import logging, subprocess, sys
from collections import deque
folder = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], check=True)
logging.basicConfig(level=logging.ERROR)

from pathlib import Path
from holdshort.jobs import BatchInferenceJob, Client, Settings
from holdshort.jobs.broker.message import Message
from holdshort.jobs.ledger import Ledger
from holdshort.jobs.settings import PoolSettings
from holdshort.storage.errors import StoreFull
from holdshort.storage.local import LocalStore
from holdshort.storage.patience import PatientStore
from holdshort.workers.engines.function import FunctionEngine
from holdshort.workers.lane import CLEAR
from holdshort.workers.observer import Observer
from holdshort.workers.runner import Limits, Runner

filler = Path(folder) / "filler"

def fill():
    with filler.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 65536)
        except OSError:
            pass
        try:
            while True:
                file.write(b"x")
        except OSError:
            pass

frees = []

def free(seconds):
    filler.unlink(missing_ok=True)
    frees.append(seconds)

# The broker lies elsewhere: it has tests of its own on a full disk.
pools = {"embed": PoolSettings(engine="function", options={"target": "support.functions:instant"})}
settings = Settings(store=f"{folder}/store", broker=f"embedded://{sys.argv[2]}/broker.db", pools=pools)
rows = [f"text {n} " + "y" * 200 for n in range(200)]
with Client(settings=settings) as client:
    fill()
    try:
        client.submit(BatchInferenceJob(pool="embed", input=rows, shard_rows=20))
    except StoreFull:
        pass
    else:
        raise AssertionError("accepted on a full disk")
    free(0)
    assert not any(client.jobs()), "something was accepted"
    frees.clear()
    job = client.submit(BatchInferenceJob(pool="embed", input=rows, shard_rows=20, max_parallelism=2))

class FillAtEachPoint(Observer):
    def at(self, point, *, job, stripe, shard):
        fill()

queue = deque(Message("embed", job.id, stripe, 1, 4) for stripe in range(job.record.stripes))
engine = FunctionEngine(target="support.functions:instant")
engine.load()
ledger = Ledger(PatientStore(LocalStore(f"{folder}/store"), sleep=free))
runner = Runner(ledger, {"batch": engine}, queue.append, lane=lambda: CLEAR, worker_id="w",
                limits=Limits(quantum_s=0.0001), observer=FillAtEachPoint())
fill()
while queue:
    runner.advance(queue.popleft(), redelivered=False)
filler.unlink(missing_ok=True)
status = job.status()
assert status.all_ok, status
assert [row.body["echo"] for row in job.results()] == rows
assert len(frees) >= 10, f"the disk was full only {len(frees)} times"
print("waited", len(frees), "times")
"""


def test_a_disk_that_is_full_at_each_write_costs_no_row(tmp_path: Path) -> None:
    alone = ["unshare", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs a mount namespace of its own (unshare --mount), which is not permitted here")
    disk, beside = tmp_path / "disk", tmp_path / "beside"
    disk.mkdir()
    beside.mkdir()
    done = subprocess.run(
        [*alone, sys.executable, "-c", _SCRIPT, str(disk), str(beside)],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
        env={"PYTHONPATH": str(Path(__file__).parent.parent), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
    )
    assert done.returncode == 0, done.stderr
    assert "waited" in done.stdout
