"""What is made of the answers of NVIDIA's library: through its real binding, against a library made for the tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdshort.workers.lane.reader import LaneReader
from holdshort.workers.probe.gpu import is_named
from holdshort.workers.probe.measured import GpuLoad
from support.commands import PROGRAM, Commands
from support.waiting import eventually

ONE = "init 0\ncount 1\nhandle0 0\nname0 Paper 9000\nuuid0 GPU-1\n"
Read = Callable[..., dict[str, Any]]


@pytest.fixture
def read(nvml_folder: Path, tmp_path: Path) -> Iterator[Read]:
    """Reads the GPUs of a library that gives these answers."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "reading_gpus.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env={**os.environ, "LD_LIBRARY_PATH": str(nvml_folder), "NVML_ANSWERS": str(tmp_path / "answers")},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def ask(answers: str, *ours: int) -> dict[str, Any]:
        stdin.write(json.dumps({"answers": answers, "ours": ours}) + "\n")
        stdin.flush()
        return json.loads(stdout.readline())

    yield ask
    stdin.close()
    assert process.wait(timeout=10) == 0
    stdout.close()


def one(found: dict[str, Any]) -> dict[str, Any]:
    (gpu,) = found["gpus"]
    return gpu


def test_a_gpus_use_is_divided_into_ours_and_others(read: Read) -> None:
    assert one(read(f"{ONE}busy0 80\nused0 11:50 12:20 13:10", 12, 13)) == {
        "index": 0, "name": "Paper 9000", "uuid": "GPU-1", "busy": 0.8, "workers": 0.3, "others": 0.5,
    }  # fmt: skip
    assert one(read(f"{ONE}busy0 100\nused0 11:90 12:90"))["others"] == 1.0
    assert one(read(f"{ONE}busy0 60\nused0 11:20 11:40 12:10", 12))["others"] == 0.3
    gpus = read("init 0\ncount 2\nhandle0 0\nhandle1 0\nbusy0 0\nused0 !6\nbusy1 40\nused1 5:40")["gpus"]
    assert [(gpu["index"], gpu["name"], gpu["others"]) for gpu in gpus] == [(0, None, 0.0), (1, None, 0.4)]


def test_samples_that_cannot_be_are_left_out(read: Read) -> None:
    assert one(read(f"{ONE}busy0 20\nused0 11:4000000000 11:20"))["others"] == 0.2


@pytest.mark.parametrize("nothing", ["used0 !6", "used0 "])
def test_an_idle_gpu_of_no_process_is_used_by_nobody(read: Read, nothing: str) -> None:
    gpu = one(read(f"{ONE}busy0 0\n{nothing}"))
    assert (gpu["others"], gpu["workers"]) == (0.0, 0.0)


@pytest.mark.parametrize("nothing", ["used0 !6", "used0 "])
def test_a_busy_gpu_of_no_process_is_not_taken_for_idle(read: Read, nothing: str) -> None:
    gpu = one(read(f"{ONE}busy0 70\n{nothing}"))
    assert (gpu["busy"], gpu["others"], gpu["workers"]) == (0.7, None, None)
    assert "names no process" in gpu["others_reason"]
    assert "batch itself" in gpu["others_reason"]


def test_a_process_that_appears_between_two_calls_is_no_error(read: Read) -> None:
    assert one(read(f"{ONE}busy0 70\nused0 grows 11:30 12:40"))["others"] == 0.7


@pytest.mark.parametrize(
    ("answers", "busy", "reason"),
    [
        ("busy0 55\nused0 !3", 0.55, "can't tell by which process: this GPU does not report it"),
        ("busy0 !3\nused0 !3\nmig0 1", None, "split (MIG)"),
        ("busy0 !3\nused0 !3\nmig0 0", None, "does not report it"),
        ("busy0 5\nused0 !4", 0.05, "does not tell it to this user"),
        ("busy0 !15\nused0 !15", None, "fallen off the bus"),
        ("busy0 5\nused0 !999", 0.05, "NVML: Unknown Error"),
        ("busy0 5\nused0 !777", 0.05, "an error of which this library knows more"),
    ],
)
def test_a_field_that_cannot_be_read_is_null_and_says_why(
    read: Read, answers: str, busy: float | None, reason: str
) -> None:
    gpu = one(read(ONE + answers))
    assert (gpu["busy"], gpu["others"], gpu["workers"]) == (busy, None, None)
    assert reason in gpu["others_reason"]


def test_a_lost_gpu_does_not_hide_the_others(read: Read) -> None:
    lost, well = read("init 0\ncount 2\nhandle0 !15\nhandle1 0\nbusy1 10\nused1 5:10")["gpus"]
    assert (lost["busy"], lost["others"]) == (None, None)
    assert "fallen off the bus" in lost["others_reason"]
    assert well["others"] == 0.1


@pytest.mark.parametrize(
    ("answers", "reason", "cure"),
    [
        ("init !9", "driver is not loaded", "nvidia-smi"),
        ("init !18", "updated while it was in use", "Restart"),
        ("init !999", "does not start", "nvidia-smi"),
        ("init 0\ncount 0", "finds no GPU", "--gpus all"),
    ],
)
def test_without_a_gpu_there_is_a_reason_and_a_cure(read: Read, answers: str, reason: str, cure: str) -> None:
    found = read(answers)
    assert found["gpus"] is None
    assert reason in found["gpus_reason"]
    assert cure in found["cure"]


def test_without_the_binding_there_is_a_reason_and_a_cure() -> None:
    ask = "import sys; sys.modules['pynvml'] = None; from holdshort.workers.probe import gpu; print(gpu.open_gpus())"
    ran = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=30, check=True)
    assert "'pynvml' is not installed" in ran.stdout
    assert "holdshort[gpu]" in ran.stdout


def test_a_gpu_that_others_use_holds_the_pool_and_a_lost_one_too(
    run: Commands, nvml_folder: Path, tmp_path: Path, lane: LaneReader
) -> None:
    answers = tmp_path / "answers"
    two = f"{ONE}busy0 0\nused0 !6\nhandle1 0\nname1 Paper\nuuid1 GPU-2\n".replace("count 1", "count 2")
    answers.write_text(f"{two}busy1 10\nused1 77:10\n")
    environment = {"LD_LIBRARY_PATH": str(nvml_folder), "NVML_ANSWERS": str(answers)}
    probe = run.start("probe", "embed", "--gpu-above", "0.3", "--device", "gpu1", "--json", **environment)
    try:
        eventually(lambda: lane.reading().reason == "others use 10 % of GPU 1", what="the probe watches GPU 1")
        _replace(answers, f"{two}busy1 100\nused1 77:60 {probe.pid}:40\n")
        eventually(lambda: lane.reading().reason == "others use 60 % of GPU 1 (above 30 %)", what="it holds")
        _replace(answers, f"{two}busy1 100\nused1 77:10 {probe.pid}:90\n")
        eventually(lambda: lane.reading().reason == "others use 10 % of GPU 1", what="it is clear again")
        _replace(answers, f"{two}busy1 !15\nused1 !15\n")
        held = eventually(lambda: (r := lane.reading()).signal == "hold" and r, what="it holds for the lost GPU")
        assert "how busy others keep GPU 1 can't be measured: the GPU has fallen off the bus" in held.reason
        # As long as a lost source counts, which is 2 s here.
        _, err = probe.communicate(timeout=20)
    finally:
        probe.kill()
        probe.communicate()
    assert probe.returncode == 7, err
    assert "gives up after 2 s" in err
    assert lane.reading().signal == "clear"


def test_what_nvml_cannot_tell_by_process_is_refused_to_hold_for(
    run: Commands, nvml_folder: Path, tmp_path: Path
) -> None:
    answers = tmp_path / "answers"
    answers.write_text(f"{ONE}busy0 90\nused0 !3\n")
    environment = {"LD_LIBRARY_PATH": str(nvml_folder), "NVML_ANSWERS": str(answers)}
    refused = run("probe", "embed", "--gpu-above", "0.3", code=7, **environment)
    assert "GPU 0 can't be watched" in refused.err
    assert "batch itself, which would hold itself" in refused.err
    assert (gpu := one(run("probe", "embed", "--once", "--json", **environment).json))["busy"] == 0.9
    assert gpu["others"] is None
    unknown = run("probe", "embed", "--gpu-above", "0.3", "--device", "left", code=7, **environment)
    assert "'left' names none of this host's" in unknown.err
    assert "gpu0 (GPU-1)" in unknown.err


def test_in_a_container_without_the_hosts_process_ids_gpus_are_not_watched(
    run: Commands, nvml_folder: Path, tmp_path: Path
) -> None:
    inside = ["unshare", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"], capture_output=True).returncode != 0:
        pytest.skip("needs unshare (util-linux) and leave to use it")
    (tmp_path / "answers").write_text(f"{ONE}busy0 90\nused0 77:90\n")
    ran = subprocess.run(
        [*inside, *PROGRAM, "probe", "embed", "--once", "--json"], capture_output=True, text=True, timeout=60,
        env={**run.environment, "LD_LIBRARY_PATH": str(nvml_folder), "NVML_ANSWERS": str(tmp_path / "answers")},
    )  # fmt: skip
    gpu = one(json.loads(ran.stdout))
    assert (gpu["busy"], gpu["others"]) == (0.9, None)
    assert "the host's ids" in gpu["others_reason"]


@pytest.mark.parametrize(
    ("device", "meant"),
    [
        ("1", True), ("gpu1", True), ("cuda:1", True), ("GPU-1", True), ("gpu-2a", True), ("left", False),
        ("gpu10", False), ("a1", False),
    ],
)  # fmt: skip
def test_a_device_names_a_gpu_by_number_or_uuid(device: str, meant: bool) -> None:
    assert is_named(GpuLoad(1, "", "gpu-2a", 0.0, 0.0, 0.0), device) == meant


def _replace(file: Path, text: str) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(file)
