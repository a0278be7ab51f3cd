"""Stores that are away, or full: what is told, what is kept, and that waiting is enough."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from holdshort.storage.errors import ObjectNotFound, StoreUnavailable
from holdshort.storage.local import LocalStore
from holdshort.storage.opening import open_store
from holdshort.storage.patience import PatientStore
from holdshort.storage.store import Store
from support.servers import SeaweedServer

_FULL_DISK = """
import os, subprocess, sys
folder, fsync = sys.argv[1], sys.argv[2] == "fsync"
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=True)

from holdshort.storage.errors import ObjectNotFound, StoreFull
from holdshort.storage.opening import open_store
from holdshort.storage.patience import PatientStore

store = open_store(folder, fsync=fsync)
assert store.create("kept/before", b"x" * 100_000)
big = b"y" * 2_000_000

for act in (
    lambda: store.create("a/object", big),
    lambda: store.replace("a/object", big),
    lambda: store.upload("a/object", [big[:500_000]] * 4),
    lambda: store.replace("kept/before", big),
):
    try:
        act()
    except StoreFull as error:
        assert "free space" in str(error), error
    else:
        raise AssertionError("no StoreFull")
    try:
        store.read("a/object")
    except ObjectNotFound:
        pass
    else:
        raise AssertionError("a part of an object was kept")
    assert store.list("a") == []
    assert [name for _, _, names in os.walk(folder) for name in names if name.startswith(".tmp")] == []

assert store.read("kept/before") == b"x" * 100_000
store.create("kept/filler", b"z" * 700_000)
waits = []

def free_space(seconds):
    waits.append(seconds)
    store.delete("kept/filler")

assert PatientStore(store, sleep=free_space).create("a/object", b"w" * 600_000)
assert len(waits) == 1
assert store.read("a/object") == b"w" * 600_000
print("all kept")
"""


@pytest.mark.parametrize("mode", ["fsync", "plain"])
def test_a_full_disk_keeps_nothing_of_an_object_and_works_again_once_there_is_space(tmp_path: Path, mode: str) -> None:
    alone = ["unshare", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs a mount namespace of its own (unshare --mount), which is not permitted here")
    done = subprocess.run(
        [*alone, sys.executable, "-c", _FULL_DISK, str(tmp_path), mode],
        capture_output=True,
        text=True,
        check=False,
    )
    if "mount:" in done.stderr:
        pytest.skip(f"needs a small file system of its own: {done.stderr.strip()}")
    assert done.stdout == "all kept\n", done.stderr


@pytest.mark.parametrize("how", ["removed", "unmounted"])
def test_a_store_folder_that_is_gone_is_unavailable_not_empty(tmp_path: Path, how: str) -> None:
    store = open_store(str(tmp_path / "store"))
    store.create("a/b", b"x")
    shutil.rmtree(tmp_path / "store")
    if how == "unmounted":
        (tmp_path / "store").mkdir()
    calls: list[Callable[[], object]] = [
        lambda: store.create("a/c", b"x"),
        lambda: store.replace("a/c", b"x"),
        lambda: store.read("a/b"),
        lambda: store.upload("a/c", [b"x"]),
        lambda: list(store.read_parts("a/b")),
        lambda: store.list("a"),
        lambda: store.delete("a/b"),
        lambda: store.delete_folder("a"),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable, match=str(tmp_path / "store")):
            call()


def test_an_s3_server_that_is_gone_is_unavailable_not_empty(tmp_path: Path) -> None:
    away = SeaweedServer(tmp_path)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        open_store("s3://holdshort/x", storage_options=away.options)


def _use(store: Store, name: str) -> None:
    assert store.create(f"{name}/created", b"1")
    store.replace(f"{name}/replaced", b"2")
    assert store.read(f"{name}/created") == b"1"
    assert store.read(f"{name}/replaced", first=1) == b"2"
    assert store.list(name) == ["created", "replaced"]
    store.delete(f"{name}/created")
    store.delete_folder(name)
    assert store.list(name) == []
    with pytest.raises(ObjectNotFound):
        store.read(f"{name}/created")


def test_a_patient_store_waits_while_its_folder_is_away(tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    behind = open_store(str(here))
    waits: list[float] = []

    def bring_back(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) % 3 == 0:
            elsewhere.rename(here)

    store = PatientStore(behind, sleep=bring_back)
    acts: list[Callable[[], object]] = [
        lambda: store.create("a/created", b"1"),
        lambda: store.read("a/created"),
        lambda: store.list("a"),
        lambda: store.replace("a/created", b"2"),
        lambda: store.delete("a/created"),
        lambda: store.delete_folder("a"),
    ]
    for number, act in enumerate(acts, start=1):
        here.rename(elsewhere)
        act()
        assert len(waits) == 3 * number
    assert waits[0] < waits[1] < waits[2]
    _use(store, "b")


def test_a_patient_store_waits_while_its_server_is_away(s3_server: SeaweedServer, s3_url: str) -> None:
    waits: list[float] = []

    def bring_back(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            s3_server.start()

    store = PatientStore(open_store(s3_url, storage_options=s3_server.options), sleep=bring_back)
    assert store.create("before", b"1")
    s3_server.kill()
    try:
        assert store.create("during", b"2")
    finally:
        if not s3_server.is_running:
            s3_server.start()
    assert len(waits) >= 2
    assert (store.read("before"), store.read("during")) == (b"1", b"2")
    _use(store, "after")


def test_a_patient_store_gives_up_after_its_patience(tmp_path: Path) -> None:
    behind = open_store(str(tmp_path / "store"))
    shutil.rmtree(tmp_path / "store")
    store = PatientStore(behind, patience_s=0.2)
    with pytest.raises(StoreUnavailable):
        store.create("a", b"x")


def test_patience_is_no_wait_for_an_object_that_is_missing(tmp_path: Path) -> None:
    def never(seconds: float) -> None:
        raise AssertionError("waited")

    store = PatientStore(open_store(str(tmp_path)), sleep=never)
    with pytest.raises(ObjectNotFound):
        store.read("nothing")
    with pytest.raises(ValueError, match="no path"):
        store.read("../x")


_KILLED_WHILE_WRITING = """
import os, signal, sys
from holdshort.storage.opening import open_store

def parts():
    yield b"x" * 1_000_000
    os.kill(os.getpid(), signal.SIGKILL)

open_store(sys.argv[1]).upload("a/object", parts())
"""


def test_what_a_killed_writer_left_is_never_seen_and_swept_later(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _KILLED_WHILE_WRITING, str(tmp_path)], check=False)
    store = LocalStore(tmp_path)
    assert store.list("a") == []
    assert store.sweep_temporary() == 0
    assert store.sweep_temporary(older_than_s=-60) == 1
    assert store.sweep_temporary(older_than_s=-60) == 0
