"""A checkpoint comes back as a whole, verified, or not at all; and old ones go without half of one being seen."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdshort.jobs import Client
from holdshort.storage.checkpoints.manifest import CopiedFile, commit_manifest, file_path, manifest_path, steps
from holdshort.storage.checkpoints.restoring import kept, prune, restore
from holdshort.storage.checksums import Sum
from holdshort.storage.errors import Corrupt, NotAllowedNow, ObjectNotFound
from holdshort.storage.opening import open_store
from holdshort.storage.store import Store
from support.brokers import EmbeddedBroker
from support.commands import Commands
from support.holdshort import settings_for

FILES = {".metadata": b"plan", "weights/0.bin": bytes(range(256)) * 9000, "weights/deep/ü 1.bin": b"x", "empty": b""}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def put(store: Store, step: int, files: dict[str, bytes] = FILES, name: str = "run") -> None:
    copied: list[CopiedFile] = []
    for path, data in files.items():
        store.upload(file_path(name, step, "one", path), [data])
        found = Sum()
        found.add(data)
        copied.append(CopiedFile(path, found.size_bytes, found.crc32c))
    commit_manifest(store, name, step, attempt="one", files=copied)


def flip(store: Store, step: int, path: str) -> None:
    at = file_path("run", step, "one", path)
    data = bytearray(store.read(at))
    data[len(data) // 2] ^= 1
    store.upload(at, [bytes(data)])


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_was_saved_comes_back_and_progress_is_in_bytes(store: Store, tmp_path: Path) -> None:
    put(store, 100)
    put(store, 200, {"a": b"newer"})
    seen: list[tuple[int, int]] = []
    found = restore(store, "run", tmp_path / "out", step=100, progress=lambda done, total: seen.append((done, total)))
    assert content(tmp_path / "out") == FILES
    assert found.manifest.step == 100
    total = sum(map(len, FILES.values()))
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    (tmp_path / "empty").mkdir()
    assert restore(store, "run", tmp_path / "empty").manifest.step == 200
    assert content(tmp_path / "empty") == {"a": b"newer"}


def test_the_newest_that_is_whole_is_taken_and_why_others_were_not_is_said(store: Store, tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        put(store, step)
    flip(store, 4, "weights/0.bin")
    store.delete(file_path("run", 3, "one", "weights/deep/ü 1.bin"))
    found = restore(store, "run", tmp_path / "out")
    assert found.manifest.step == 2
    assert [step for step, _ in found.passed_over] == [4, 3]
    assert "CRC32C" in found.passed_over[0][1]
    assert "ü 1.bin is missing" in found.passed_over[1][1]
    assert content(tmp_path / "out") == FILES
    with pytest.raises(Corrupt, match=r"weights/0\.bin has"):
        restore(store, "run", tmp_path / "other", step=4)
    for step in (1, 2):
        flip(store, step, "weights/0.bin")
    with pytest.raises(Corrupt, match=r"No step of run .* is whole\. step 4: "):
        restore(store, "run", tmp_path / "other")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "store"]


def test_what_is_there_is_not_touched_and_what_is_not_there_is_said(store: Store, tmp_path: Path) -> None:
    put(store, 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(NotAllowedNow, match="not empty"):
        restore(store, "run", tmp_path / "out")
    with pytest.raises(ObjectNotFound, match="no step 7"):
        restore(store, "run", tmp_path / "new", step=7)
    with pytest.raises(ObjectNotFound, match="no checkpoint of other"):
        restore(store, "other", tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "store"]


@pytest.mark.parametrize("path", ["../out-of-it", "/etc/x", "a/../../b", ""])
def test_a_manifest_that_leads_out_of_the_folder_is_refused(store: Store, tmp_path: Path, path: str) -> None:
    manifest = {"version": 1, "name": "run", "step": 1, "attempt": "one",
                "files": [{"path": path, "size_bytes": 0, "crc32c": "00000000"}]}  # fmt: skip
    store.create(manifest_path("run", 1), orjson.dumps(manifest))
    with pytest.raises(Corrupt, match="outside its folder"):
        restore(store, "run", tmp_path / "out", step=1)
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


RESTORES = """
import sys
from pathlib import Path
from holdshort.storage.opening import open_store
from holdshort.storage.checkpoints.restoring import restore

def progress(done, total):
    if done > total // 2:
        print("half", flush=True)
        sys.stdin.read()

restore(open_store(sys.argv[1]), "run", Path(sys.argv[2]), progress=progress)
"""


def test_a_restore_that_is_killed_leaves_no_folder_and_the_next_one_succeeds(store: Store, tmp_path: Path) -> None:
    put(store, 1, {f"{n}.bin": os.urandom(300_000) for n in range(20)})
    process = subprocess.Popen(
        [sys.executable, "-c", RESTORES, str(tmp_path / "store"), str(tmp_path / "out")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "out").exists()
    assert len(content(restore(store, "run", tmp_path / "out").folder)) == 20


def test_a_full_disk_is_said_and_nothing_is_left(store: Store, tmp_path: Path) -> None:
    put(store, 1)
    code = (
        "import sys\nfrom pathlib import Path\nfrom holdshort.storage.checkpoints import restoring\n"
        "from holdshort.storage.opening import open_store\n"
        "try:\n    restoring.restore(open_store(sys.argv[1]), 'run', Path(sys.argv[2]))\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store"), str(tmp_path / "out")],
        preexec_fn=small_files, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("StoreFull No space left for")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store"]


@given(st.lists(st.integers(0, 10_000), unique=True, max_size=40), st.integers(1, 10), st.none() | st.integers(1, 500))
def test_what_is_kept_is_the_newest_and_the_multiples(found: list[int], last: int, every: int | None) -> None:
    stay = kept(found, keep_last=last, keep_every=every)
    assert stay == sorted(stay)
    assert set(sorted(found)[-last:]) <= set(stay) <= set(found)
    assert set(stay) == {s for s in found if s in sorted(found)[-last:] or (every and s % every == 0)}


def test_prune_removes_manifest_and_files_and_nothing_else(store: Store) -> None:
    for step in (100, 200, 250, 300, 350):
        put(store, step)
    put(store, 100, name="other")
    assert prune(store, "run", keep_last=2, keep_every=200, really=False) == [100, 250]
    assert steps(store, "run") == [100, 200, 250, 300, 350]
    assert prune(store, "run", keep_last=2, keep_every=200) == [100, 250]
    assert steps(store, "run") == [200, 300, 350]
    assert store.list("checkpoints/run") == sorted(
        name for step in (200, 300, 350) for name in (f"{step:012d}.json", f"{step:012d}/")
    )
    assert steps(store, "other") == [100]
    with pytest.raises(ValueError, match="at least 1"):
        prune(store, "run", keep_last=0)


def test_by_the_command(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path / "broker")
    broker.start()
    settings = settings_for(tmp_path, broker.url)
    with Client(settings=settings) as client:
        for step in (1, 2, 3):
            put(client.ledger.store, step)
        flip(client.ledger.store, 3, "weights/0.bin")
    run = Commands(tmp_path, settings)
    done = run("checkpoint", "restore", "run", str(tmp_path / "out"))
    assert "step 2 of run: 4 files, 2,304,005 bytes" in done.out
    assert "step 3 is not whole" in done.err
    assert content(tmp_path / "out") == FILES
    assert "not empty" in run("checkpoint", "restore", "run", str(tmp_path / "out"), code=3).err
    told = json.loads(run("checkpoint", "restore", "run", str(tmp_path / "two"), "--step", "1", "--json").out)
    assert (told["step"], told["files"], told["passed_over"]) == (1, 4, [])
    assert "would remove 2 steps of run: 1, 2" in run("checkpoint", "prune", "run", "--keep-last", "1", "--dry-run").out
    assert json.loads(run("checkpoint", "prune", "run", "--keep-last", "1", "--json").out)["removed"] == [1, 2]
    assert "no step of run is to go" in run("checkpoint", "prune", "run", "--keep-last", "1").out
