"""Whose processor time it was: real processes, and counts as the kernel gives them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdshort.workers.probe.cpu import CpuCount, count, load_between
from holdshort.workers.probe.measured import CpuLoad
from holdshort.workers.probe.processes import Family, families_of, family_of
from holdshort.workers.probe.quota import Quota, quotas
from support.waiting import eventually

SECONDS = st.floats(0.0, 10.0)

# A worker with a child that burns in a thread, and one that is gone already: 0.6 s in all, as the three count it.
_TREE = """
import os, threading, time
def burn():
    while time.thread_time() < 0.2: pass
if os.fork() == 0:
    burn(); os._exit(0)
os.wait()
if os.fork() == 0:
    thread = threading.Thread(target=burn); thread.start(); thread.join()
    time.sleep(60)
burn()
print("burnt", flush=True)
time.sleep(60)
"""


def family(pid: int, used_s: float, cgroup: str = "/") -> Family:
    return Family(pid, 1, used_s, frozenset({pid}), cgroup)


def test_a_family_is_a_process_with_all_that_it_started_also_what_has_ended() -> None:
    worker = subprocess.Popen([sys.executable, "-c", _TREE], stdout=subprocess.PIPE, text=True)
    child = None
    try:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "burnt\n"
        found = eventually(
            lambda: (f := family_of(worker.pid)) is not None and f.used_s >= 0.5 and f, what="each has burnt its share"
        )
        (child,) = psutil.Process(worker.pid).children()
        assert found.pids == {worker.pid, child.pid}
        assert found.used_s < 1.5
        assert families_of([worker.pid, child.pid, 2**22 + 1]) == [family_of(worker.pid)]
    finally:
        if child is not None:
            child.kill()
        worker.kill()
        worker.wait()
        worker.stdout and worker.stdout.close()
    assert family_of(worker.pid) is None


def test_the_counts_of_this_machine_agree_with_what_a_process_knows_of_itself() -> None:
    before, own = count(families_of([os.getpid()])), time.process_time()
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        pass
    after, own = count(families_of([os.getpid()])), time.process_time() - own
    assert isinstance(before, CpuCount)
    assert isinstance(after, CpuCount)
    load = load_between(before, after)
    cores = len(os.sched_getaffinity(0))
    assert load.workers * load.cores * (after.at - before.at) == pytest.approx(own, abs=0.05)
    if not load.is_quota:
        assert load.cores == cores
    assert 0.0 <= load.others <= 1.0


def test_what_our_workers_used_is_taken_off() -> None:
    before = CpuCount(10.0, {0: 100.0, 3: 50.0}, [], [family(7, 20.0)])
    after = CpuCount(12.0, {0: 102.0, 3: 51.0}, [], [family(7, 22.0)])
    assert load_between(before, after) == CpuLoad(others=0.25, workers=0.5, cores=2.0)


def test_only_what_a_worker_used_since_counts_and_only_if_it_is_the_same_process() -> None:
    before = CpuCount(10.0, {0: 100.0}, [], [family(7, 20.0)])
    renamed = Family(7, 2, 500.0, frozenset({7}), "/")
    after = CpuCount(11.0, {0: 101.0}, [], [renamed, family(8, 900.0)])
    assert load_between(before, after) == CpuLoad(others=1.0, workers=0.0, cores=1.0)


@given(SECONDS, SECONDS, st.floats(0.01, 5.0), st.floats(0.1, 64.0))
def test_shares_are_shares_whatever_the_counts_are(
    used_s: float, ours_s: float, elapsed_s: float, quota: float
) -> None:
    before = CpuCount(0.0, {0: 0.0}, [Quota("/", quota, 0.0)], [family(1, 0.0)])
    after = CpuCount(elapsed_s, {0: used_s}, [Quota("/", quota, used_s)], [family(1, ours_s)])
    load = load_between(before, after)
    assert 0.0 <= load.others <= 1.0
    assert 0.0 <= load.workers <= 1.0


def test_a_quota_that_others_use_up_counts_more_than_idle_processors() -> None:
    before = CpuCount(0.0, dict.fromkeys(range(8), 0.0), [Quota("/pod", 2.0, 5.0)], [family(1, 0.0, "/pod/a")])
    after = CpuCount(1.0, dict.fromkeys(range(8), 0.25), [Quota("/pod", 2.0, 7.0)], [family(1, 0.5, "/pod/a")])
    load = load_between(before, after)
    assert load == CpuLoad(others=0.75, workers=0.25, cores=2.0, is_quota=True)
    assert load.whole == "a quota of 2 cores"


def test_a_worker_outside_of_the_quota_uses_none_of_it() -> None:
    before = CpuCount(0.0, {0: 0.0}, [Quota("/pod", 1.0, 0.0)], [family(1, 0.0, "/podium")])
    after = CpuCount(1.0, {0: 1.0}, [Quota("/pod", 1.0, 0.5)], [family(1, 0.5, "/podium")])
    assert load_between(before, after).others == 0.5
    assert not Quota("/", 1.0, 0.0).holds("/../elsewhere")
    assert Quota("/", 1.0, 0.0).holds("/inside")


def test_quotas_are_those_of_the_cgroup_and_of_all_above_it(tmp_path: Path) -> None:
    for place, allowed, usage in (("", None, None), ("pod", "150000 100000", 2_500_000), ("pod/a", "max 100000", 1)):
        (tmp_path / place).mkdir(exist_ok=True)
        if allowed:
            (tmp_path / place / "cpu.max").write_text(f"{allowed}\n")
            (tmp_path / place / "cpu.stat").write_text(f"usage_usec {usage}\nuser_usec 1\nnr_periods 4\n")
    assert quotas(tmp_path, "/pod/a") == [Quota("/pod", 1.5, 2.5)]
    assert quotas(tmp_path, "/") == []
    assert quotas(tmp_path, "") == []
    assert quotas(tmp_path, "/../other") == []
