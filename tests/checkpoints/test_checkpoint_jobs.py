"""A checkpoint is in the store as a whole or not at all, and is what was in the folder."""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from holdshort.jobs import CheckpointJob, Client, Job, RefusedJob, Settings
from holdshort.storage.checkpoints.manifest import Manifest, read_manifest, steps, verify
from support.brokers import EmbeddedBroker
from support.commands import Commands
from support.holdshort import Processes, settings_for
from support.waiting import eventually

FILES = {
    "config.json": b'{"layers": 12}',
    ".metadata": b"hidden",
    "weights/part-0.safetensors": bytes(range(256)) * 1000,
    "weights/deep/er/part 1.bin": b"with a space",
    "empty.bin": b"",
    "ünïcode ☃.txt": "schön".encode(),
    "odd #%?&[*]=+,;'\"\\.bin": b"odd",
    "chained::like::url.bin": b"looks like a URL",
    " leading and trailing ": b"spaces",
    "new\nline.bin": b"line",
    "%41.bin": b"not A",
    "A.bin": b"A",
    "名" * 80 + ".bin": b"a long name",
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    broker = EmbeddedBroker(tmp_path / "broker")
    broker.start()
    return settings_for(tmp_path, broker.url)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "step-1000"
    for name, data in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def _large(folder: Path, size_mb: int = 40) -> Path:
    path = folder / "large.bin"
    path.write_bytes(random.Random(1).randbytes(2**20) * size_mb)
    return path


def _submit(client: Client, source: Path, *, step: int = 1000) -> Job:
    return client.submit(CheckpointJob(pool="embed", source=str(source), name="run-7", step=step))


def _contents(client: Client, manifest: Manifest) -> dict[str, bytes]:
    """What a reader of the manifest finds."""
    from holdshort.storage.checkpoints.manifest import file_path

    store = client.ledger.store
    return {
        file.path: store.read(file_path(manifest.name, manifest.step, manifest.attempt, file.path))
        for file in manifest.files
    }


def test_a_folder_is_copied_whole_whatever_its_files_are_called(
    client: Client, processes: Processes, source: Path
) -> None:
    large = _large(source)
    job = _submit(client, source)
    assert steps(client.ledger.store, "run-7") == []
    processes.worker()
    status = job.wait(timeout=60)
    assert status.all_ok, [row.error for row in job.results() if row.error]
    assert steps(client.ledger.store, "run-7") == [1000]
    manifest = read_manifest(client.ledger.store, "run-7", 1000)
    assert _contents(client, manifest) == {**FILES, "large.bin": large.read_bytes()}
    assert {problem for _, problem in verify(client.ledger.store, manifest)} == {""}


def test_a_second_job_for_a_step_fails_and_names_the_one_that_holds_it(
    client: Client, processes: Processes, source: Path
) -> None:
    first, second = _submit(client, source), _submit(client, source)
    processes.worker()
    ended = {job.id: job.wait(timeout=60) for job in (first, second)}
    assert sorted(status.state for status in ended.values()) == ["completed", "failed"]
    holder = next(status.id for status in ended.values() if status.state == "completed")
    loser = next(status for status in ended.values() if status.state == "failed")
    assert holder in loser.reason
    assert not loser.all_ok
    assert read_manifest(client.ledger.store, "run-7", 1000).attempt == holder


def _grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def _rewrite(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"X" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))


@pytest.mark.parametrize(
    ("change", "code"), [(_grow, "source_changed"), (_rewrite, "source_changed"), (Path.unlink, "source_missing")]
)
def test_a_file_that_changed_after_the_submit_fails_the_job_and_nothing_is_visible(
    client: Client, processes: Processes, source: Path, change: object, code: str
) -> None:
    job = _submit(client, source)
    assert callable(change)
    change(source / "config.json")
    processes.worker()
    status = job.wait(timeout=60)
    assert status.state == "failed"
    assert "1 of 13 files were not copied" in status.reason
    (failed,) = (row for row in job.results() if row.outcome != "ok")
    assert failed.custom_id == "config.json"
    assert failed.error is not None
    assert failed.error["code"] == code
    assert steps(client.ledger.store, "run-7") == []
    # The next try, with the folder as it is now, holds the step.
    again = _submit(client, source)
    assert again.wait(timeout=60).all_ok
    assert read_manifest(client.ledger.store, "run-7", 1000).attempt == again.id


def test_a_worker_killed_in_mid_copy_leaves_a_checkpoint_that_completes_and_verifies(
    client: Client, processes: Processes, source: Path, settings: Settings
) -> None:
    large = _large(source, size_mb=160)
    job = _submit(client, source)
    store = Path(settings.store)

    def is_copying() -> bool:
        for path in store.rglob("*"):
            with suppress(FileNotFoundError):  # what is written aside is renamed at any time
                is_aside = path.is_file() and path.name != "large.bin"
                if is_aside and 8 * 2**20 <= path.stat().st_size < large.stat().st_size:
                    return True
        return False

    doomed = processes.worker(ready=False)
    eventually(is_copying, timeout=30, every=0.001, what="it copies the large file")
    doomed.send(signal.SIGKILL)
    assert doomed.wait() == -signal.SIGKILL
    assert steps(client.ledger.store, "run-7") == []
    assert not job.status().has_ended
    processes.worker()
    assert job.wait(timeout=60).all_ok
    manifest = read_manifest(client.ledger.store, "run-7", 1000)
    assert len(manifest.files) == len(FILES) + 1
    assert {problem for _, problem in verify(client.ledger.store, manifest)} == {""}


@pytest.mark.parametrize("point", ["before_commit", "after_commit"])
def test_a_worker_killed_between_copies_repeats_only_what_was_not_committed(
    client: Client, processes: Processes, source: Path, point: str
) -> None:
    for number in range(300):  # 64 small files are one commit
        (source / f"small-{number}").write_bytes(b"%d" % number)
    job = _submit(client, source)
    assert processes.worker(kill_at=point, nth=3, ready=False).wait(timeout=30) == -signal.SIGKILL
    assert steps(client.ledger.store, "run-7") == []
    processes.worker()
    assert job.wait(timeout=60).all_ok
    manifest = read_manifest(client.ledger.store, "run-7", 1000)
    small = {f"small-{number}": b"%d" % number for number in range(300)}
    assert _contents(client, manifest) == {**FILES, **small}


def test_what_is_no_folder_with_files_is_refused(client: Client, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for source in ("empty", "file", "missing"):
        with pytest.raises(RefusedJob, match="Nothing was submitted"):
            _submit(client, tmp_path / source)
    assert list(client.jobs()) == []


@pytest.mark.parametrize("kind", ["a pipe", "a link to a folder", "a broken link"])
def test_what_is_no_file_in_a_folder_is_refused_by_name(client: Client, source: Path, kind: str) -> None:
    strange = source / "strange"
    if kind == "a pipe":
        os.mkfifo(strange)
    else:
        strange.symlink_to(source / "weights" if kind == "a link to a folder" else source / "nowhere")
    with pytest.raises(RefusedJob, match="strange is no regular file"):
        _submit(client, source)


def test_a_link_to_a_file_is_copied_as_that_file(client: Client, processes: Processes, source: Path) -> None:
    (source / "linked.bin").symlink_to("A.bin")
    job = _submit(client, source)
    processes.worker()
    assert job.wait(timeout=60).all_ok
    found = _contents(client, read_manifest(client.ledger.store, "run-7", 1000))
    assert found == {**FILES, "linked.bin": b"A"}


def test_a_file_whose_name_is_no_unicode_is_refused_by_name(client: Client, source: Path) -> None:
    with open(os.fsencode(source) + b"/bad\xff.bin", "wb") as file:
        file.write(b"x")
    with pytest.raises(RefusedJob, match=r"bad\\udcff\.bin"):
        _submit(client, source)
    assert list(client.jobs()) == []


# -- by the command --------------------------------------------------------------------------------------


def test_a_checkpoint_is_saved_listed_and_verified_by_the_command(
    settings: Settings, processes: Processes, source: Path, tmp_path: Path, client: Client
) -> None:
    run = Commands(tmp_path, settings)
    processes.worker()
    # The worker runs in another folder, so the path must not depend on where the command ran.
    inner = Commands(source.parent, settings)
    as_job = ("--step", "1000", "--pool", "embed", "--wait")
    saved = inner("checkpoint", "save", "run-7", "step-1000", *as_job, "--json")
    assert saved.json["state"] == "completed"
    (listed,) = run("checkpoint", "list", "run-7", "--json").json
    assert (listed["step"], listed["attempt"], len(listed["files"])) == (1000, saved.json["id"], len(FILES))
    assert "1000" in run("checkpoint", "list", "run-7").out
    assert "is whole" in run("checkpoint", "verify", "run-7", "1000").out
    assert run("checkpoint", "verify", "run-7", "1000", "--json").json["ok"] is True
    again = run("checkpoint", "save", "run-7", str(source), *as_job, code=5)
    assert saved.json["id"] in again.out


def test_a_flipped_byte_and_a_missing_file_are_found_by_verify(
    settings: Settings, processes: Processes, source: Path, tmp_path: Path, client: Client
) -> None:
    job = _submit(client, source)
    processes.worker()
    assert job.wait(timeout=60).all_ok
    copies = Path(settings.store) / "checkpoints" / "run-7" / "000000001000" / job.id
    flipped = copies / "weights" / "part-0.safetensors"
    data = bytearray(flipped.read_bytes())
    data[1000] ^= 1
    flipped.write_bytes(data)
    (copies / "A.bin").unlink()
    run = Commands(tmp_path, settings)
    found = run("checkpoint", "verify", "run-7", "1000", "--json", code=1).json
    assert found["ok"] is False
    assert set(found["problems"]) == {"weights/part-0.safetensors", "A.bin"}
    shown = run("checkpoint", "verify", "run-7", "1000", code=1).err
    assert "CRC32C" in shown
    assert "is missing" in shown


def test_commands_on_a_checkpoint_that_is_not_there_say_so(settings: Settings, source: Path, tmp_path: Path) -> None:
    run = Commands(tmp_path, settings)
    assert "No checkpoint of nobody" in run("checkpoint", "list", "nobody").err
    assert run("checkpoint", "list", "nobody", "--json").json == []
    assert "step 7 of nobody" in run("checkpoint", "verify", "nobody", "7", code=4).err
    run("checkpoint", "list", "../up", code=2)
    save = ("checkpoint", "save", "run")
    assert "no folder" in run(*save, "nowhere", "--step", "1", code=3).err
    assert "no folder" in run(*save, "nowhere", "--step", "1", "--pool", "embed", code=3).err
    assert "did you mean" in run(*save, str(source), "--step", "1", "--pool", "embd", code=4).err
    assert "--pool" in run(*save, str(source), "--step", "1", "--wait", code=2).err
