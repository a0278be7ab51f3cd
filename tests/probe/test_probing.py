"""The probe on this machine, with real load of others and of batch."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdshort.jobs import BatchInferenceJob, Client, Settings
from holdshort.jobs.settings import PoolSettings
from holdshort.workers.lane.place import LanePlace
from holdshort.workers.lane.reader import LaneReader
from holdshort.workers.probe.probing import Probe, Thresholds
from probe.conftest import Burners, Crew
from support.commands import Commands
from support.holdshort import Processes, settings_for
from support.waiting import eventually

HAS_DRIVER = Path("/proc/driver/nvidia").exists()


@contextmanager
def probing(run: Commands, lane: LaneReader, *options: str) -> Generator[subprocess.Popen[str]]:
    """A probe that has said its first word."""
    probe = run.start("probe", "embed", "--cpu-above", "0.3", *options)
    try:
        eventually(
            lambda: any(s.reading and s.reading.reason.startswith("others use") for s in lane.sources()),
            what="the probe speaks",
        )
        yield probe
    finally:
        probe.kill()
        probe.communicate()


def test_a_machine_that_others_keep_busy_holds_the_pool_until_it_is_calm(
    run: Commands, lane: LaneReader, crew: Crew, burn: Callable[[], Burners]
) -> None:
    with probing(run, lane) as probe:
        try:
            eventually(lambda: lane.reading().signal == "clear", timeout=60)
        except AssertionError:
            pytest.skip("needs a machine that nobody else keeps busy")
        burners = burn()
        held = eventually(lambda: (r := lane.reading()).signal == "hold" and r, timeout=10, what="others are busy")
        assert held.source == "probe"
        cores = len(os.sched_getaffinity(0))
        assert re.fullmatch(rf"others use \d+ % of {cores} cores? \(above 30 %\)", held.reason), held.reason
        burners.end()
        ended_at = time.monotonic()
        eventually(lambda: lane.reading().signal == "clear", timeout=60, what="the machine is calm")
        assert time.monotonic() - ended_at >= 1.9
        probe.send_signal(signal.SIGTERM)
        _, err = probe.communicate(timeout=20)
    assert probe.returncode == 0, err
    assert "hold (others use" in err
    assert lane.sources() == []


def test_workers_are_not_others_as_long_as_they_beat(
    run: Commands, lane: LaneReader, crew: Crew, burn: Callable[[], Burners]
) -> None:
    burners = burn()
    crew.add(*burners.pids)
    with probing(run, lane) as probe:
        ours = run("probe", "other", "--once", "--json").json["cpu"]
        assert ours["workers"] > 0.5
        # They fill the machine; if they counted as others, it would never be clear.
        try:
            eventually(lambda: lane.reading().signal == "clear", timeout=40, what="the workers do not count")
        except AssertionError:
            pytest.skip("needs a machine that nobody else keeps busy")
        assert lane.reading().source == "probe"
        crew.remove(*burners.pids)
        held = eventually(lambda: (r := lane.reading()).signal == "hold" and r, timeout=15, what="they became others")
        assert held.reason.startswith("others use")
        probe.send_signal(signal.SIGINT)
        assert probe.wait(timeout=20) == 0


def test_a_real_worker_that_burns_is_told_from_others(tmp_path: Path) -> None:
    pools = {"embed": PoolSettings(engine="function", options={"target": "probe.burning:until_released"})}
    settings = settings_for(tmp_path, f"embedded://{tmp_path}/broker.db", pools=pools)
    processes = Processes(tmp_path, settings)
    try:
        processes.worker()
        with Client(settings=settings) as client:
            job = client.submit(BatchInferenceJob(pool="embed", input=["a"]))
            eventually(lambda: (tmp_path / "burning").exists(), what="the worker burns")
            found = eventually(
                lambda: (
                    (cpu := Commands(tmp_path, settings)("probe", "embed", "--once", "--json").json["cpu"])["workers"]
                    > 0.1
                    and cpu
                ),
                what="its burning is seen",
            )
            assert found["others"] <= 1.0 - found["workers"] + 0.15
            assert "batch" in Commands(tmp_path, settings)("probe", "embed", "--once").out
            (tmp_path / "released").touch()
            job.wait(timeout=30)
    finally:
        processes.end()


def test_a_worker_that_is_seen_to_beat_but_not_to_run_is_not_taken_for_others(
    run: Commands, lane: LaneReader, crew: Crew
) -> None:
    missing = 2**22 + 7  # above the highest pid there is
    crew.add(missing)
    found = run("probe", "embed", "--once", "--json").json
    assert found["cpu"] is None
    assert str(missing) in found["cpu_reason"]
    assert found["gpus"] is None
    # A running probe waits for a beat more, since the worker may just have died, and then for as long as a lost source
    # counts, which is 2 s here.
    probe = run.start("probe", "embed", "--cpu-above", "0.99")
    try:
        eventually(
            lambda: (
                (r := lane.reading()).signal == "hold" and "can't be measured: workers of this host beat" in r.reason
            ),
            what="it holds",
        )
        _, err = probe.communicate(timeout=20)
    finally:
        probe.kill()
        probe.communicate()
    assert probe.returncode == 7
    assert "gives up" in err
    assert "in the same container" in err
    assert lane.reading().signal == "clear"


@pytest.mark.skipif(HAS_DRIVER, reason="this machine has an NVIDIA driver")
def test_without_a_gpu_it_is_null_with_a_reason_and_not_to_be_watched(run: Commands, lane: LaneReader) -> None:
    found = run("probe", "embed", "--once", "--json").json
    assert found["gpus"] is None
    assert "no NVIDIA driver" in found["gpus_reason"] or "not installed" in found["gpus_reason"]
    assert "not measured" in run("probe", "embed", "--once").out
    refused = run("probe", "embed", "--gpu-above", "0.3", code=7)
    assert "GPUs can't be watched" in refused.err
    assert "--cpu-above" in refused.err or "holdshort[gpu]" in refused.err
    assert lane.sources() == []


def test_without_a_threshold_it_watches_what_it_can_and_says_what_it_can_not(run: Commands, lane: LaneReader) -> None:
    probe = run.start("probe", "embed", "--device", "gpu1", "--json")
    try:
        found = eventually(lambda: [s for s in lane.sources() if s.reading], what="the probe speaks")
        assert [(s.name, s.device) for s in found] == [("probe", "gpu1")]
        probe.send_signal(signal.SIGINT)
        out, err = probe.communicate(timeout=20)
    finally:
        probe.kill()
        probe.communicate()
    assert probe.returncode == 0, err
    assert '"event": "started"' in out
    assert "the processors" in out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["embd"], 4), (["embd", "--once"], 4), (["embed", "--device", "gpu7"], 7), (["embed", "--cpu-above", "0"], 2),
        (["embed", "--gpu-above", "30"], 2), (["embed", "--every", "0"], 2),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(run: Commands, arguments: list[str], code: int) -> None:
    run("probe", *arguments, code=code)


def test_a_probe_speaks_to_its_own_host_only(tmp_path: Path) -> None:
    base = settings_for(tmp_path, f"embedded://{tmp_path}/broker.db")
    shared: Settings = base.model_copy(update={"lane_fanout": True})
    probe = Probe(shared, "embed", Thresholds(cpu=0.99))
    stop = threading.Event()
    stop.set()
    probe.run(stop)
    assert "lane-announcer" not in [thread.name for thread in threading.enumerate()]
    assert LaneReader(LanePlace.of(shared), "embed").reading().signal == "clear"
