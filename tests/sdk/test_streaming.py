"""Large jobs need little memory, in every process.

HOLDSHORT_TEST_ROWS=1000000 runs it with 1,000,000 rows and 2 GB; it needs 4 GB of disk.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from holdshort.jobs import Client, Settings
from holdshort.jobs.settings import PoolSettings
from support.brokers import EmbeddedBroker
from support.holdshort import TESTS, Processes, environment_of, settings_for
from support.streaming import ROW_BYTES, peak_mb, write_input
from support.waiting import eventually

ROWS = int(os.environ.get("HOLDSHORT_TEST_ROWS", "100000"))
MOST_MB = 300
_TIMEOUT_S = 120 + ROWS / 500


@pytest.mark.slow
@pytest.mark.timeout(4 * _TIMEOUT_S)
def test_submitting_running_and_reading_a_large_input_take_less_than_300_mb_each(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path / "broker")
    broker.start()
    pools = {"embed": PoolSettings(engine="function", options={"target": "support.functions:instant"})}
    settings = settings_for(tmp_path, broker.url, pools=pools, quantum_s=30.0)
    file = tmp_path / "input.jsonl"
    assert write_input(file, ROWS) > ROWS * ROW_BYTES
    processes = Processes(tmp_path, settings)
    try:
        submitted = _run(settings, "submit", str(file))
        assert submitted["rows"] == ROWS
        file.unlink()
        with Client(settings=settings) as client:
            job = client.job(submitted["job"])
            begin = time.monotonic()
            worker = processes.worker()
            controller = processes.holdshort("controller")
            status = job.wait(timeout=_TIMEOUT_S)
            ran_s = time.monotonic() - begin  # with the worker's start
            assert status.all_ok, status
            eventually(lambda: client.ledger.store.list("leader"), what="the controller leads")
        peaks = {"worker": peak_mb(worker.pid), "controller": peak_mb(controller.pid)}
        processes.end()
        read = _run(settings, "read", job.id)
    finally:
        processes.end()
    assert read["rows"] == ROWS
    peaks |= {"submit": submitted["peak_mb"], "read": read["peak_mb"]}
    rates = {"submit": ROWS / submitted["seconds"], "run": ROWS / ran_s, "read": ROWS / read["seconds"]}
    print("peak MB:", {name: round(peak) for name, peak in peaks.items()})
    print("rows/s:", {name: round(rate) for name, rate in rates.items()})
    assert max(peaks.values()) < MOST_MB, peaks


def _run(settings: Settings, *arguments: str) -> dict[str, Any]:
    found = subprocess.run(
        [sys.executable, "-m", "support.streaming", *arguments],
        env={**os.environ, **environment_of(settings), "PYTHONPATH": str(TESTS)},
        capture_output=True, text=True, timeout=_TIMEOUT_S,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)
