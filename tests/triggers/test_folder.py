"""A dropped file becomes exactly one job, and is then in done/ or in rejected/, never both, never neither."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from holdshort.jobs import Client, Settings, SettingsError
from holdshort.jobs.triggers.folder import FolderTrigger
from holdshort.jobs.triggers.identity import is_being_written
from support.holdshort import Process, Processes, settings_for
from support.waiting import eventually

LINE = '{"input": "a"}\n'
WRITER = """
import sys
with open(sys.argv[1], "w") as file:
    for part in sys.argv[2:]:
        file.write(part)
        file.flush()
        print("written", flush=True)
        sys.stdin.readline()
"""


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []


def _watch(processes: Processes, inbox: Path) -> Process:
    watching = processes.holdshort("watch", str(inbox), "--pool", "embed")
    eventually(lambda: "watching" in watching.text(), timeout=30, what="it watches")
    return watching


# -- by the command --------------------------------------------------------------------------------------


def test_a_dropped_file_becomes_a_job_and_is_then_in_done(processes: Processes, inbox: Path, client: Client) -> None:
    watching = _watch(processes, inbox)
    (inbox / "a.jsonl").write_text(LINE * 3)
    eventually((inbox / "done" / "a.jsonl").exists, what="it is taken")
    (status,) = client.jobs()
    assert (status.rows, status.metadata) == (3, {"source": "a.jsonl"})
    watching.send(signal.SIGTERM)
    assert watching.wait() == 0


def test_a_file_that_is_being_written_is_waited_for(processes: Processes, inbox: Path, client: Client) -> None:
    _watch(processes, inbox)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(inbox / "slow.jsonl"), LINE, '{"inp', 'ut": "b"}\n'],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert writer.stdin is not None
    assert writer.stdout is not None
    for number in range(3):
        assert writer.stdout.readline() == "written\n"
        # Once another file was taken, the folder has been looked at since the writer wrote.
        (inbox / f"other{number}.jsonl").write_text(LINE)
        eventually((inbox / "done" / f"other{number}.jsonl").exists, what="the other file is taken")
        assert "slow.jsonl" in _names(inbox)
        writer.stdin.write("go on\n")
        writer.stdin.flush()
    writer.communicate()
    eventually((inbox / "done" / "slow.jsonl").exists, what="the file is taken")
    assert sorted(status.rows for status in client.jobs()) == [1, 1, 1, 2]
    assert _names(inbox / "rejected") == []


def test_two_watchers_make_one_job_of_each_file(processes: Processes, inbox: Path, client: Client) -> None:
    _watch(processes, inbox)
    _watch(processes, inbox)
    for number in range(30):
        (inbox / f"{number:02}.jsonl").write_text(LINE)
    eventually(lambda: len(_names(inbox / "done")) == 30, timeout=60, what="all are taken")
    assert sorted(status.metadata["source"] for status in client.jobs()) == [f"{n:02}.jsonl" for n in range(30)]
    assert _names(inbox / "done") == [f"{number:02}.jsonl" for number in range(30)]
    assert _names(inbox) == ["done"]


def test_a_watcher_killed_again_and_again_makes_one_job_of_each_file(
    processes: Processes, inbox: Path, client: Client
) -> None:
    for number in range(40):
        (inbox / f"{number:02}.jsonl").write_text(LINE)
    for target in (1, 10, 20):
        watching = processes.holdshort("watch", str(inbox), "--pool", "embed")
        eventually(lambda target=target: len(_names(inbox / "done")) >= target, timeout=60, every=0.001)
        watching.kill()
    _watch(processes, inbox)
    eventually(lambda: len(_names(inbox / "done")) == 40, timeout=60, what="all are taken")
    assert sorted(status.metadata["source"] for status in client.jobs()) == [f"{n:02}.jsonl" for n in range(40)]


# -- look by look ----------------------------------------------------------------------------------------


def test_a_file_whose_watcher_died_before_it_was_moved_is_the_same_job(trigger: FolderTrigger, inbox: Path) -> None:
    (inbox / "a.jsonl").write_text(LINE)
    (first,) = trigger.look()
    # As it lay there when the watcher died: the same file, with its inode and times.
    (inbox / "done" / "a.jsonl").rename(inbox / "a.jsonl")
    assert trigger.look() == [first]
    assert _names(inbox / "done") == ["a.jsonl"]


def test_a_new_file_of_an_old_name_is_a_new_job_and_the_old_file_stays(trigger: FolderTrigger, inbox: Path) -> None:
    (inbox / "a.jsonl").write_text(LINE)
    (first,) = trigger.look()
    (inbox / "a.jsonl").write_text('{"input": "b"}\n')
    (second,) = trigger.look()
    assert first != second
    assert (inbox / "done" / "a.jsonl").read_text() == LINE
    assert (inbox / "done" / f"a.{second}.jsonl").read_text() == '{"input": "b"}\n'


def test_a_file_that_is_replaced_while_it_is_read_becomes_a_job_too(
    trigger: FolderTrigger, inbox: Path, settings: Settings, client: Client
) -> None:
    first, second = inbox / "a.jsonl", inbox.parent / "next.jsonl"
    first.write_text("".join(f'{{"input": "{number}"}}\n' for number in range(100_000)))
    second.write_text(LINE)
    store = Path(settings.store)

    def replace() -> None:
        eventually(lambda: list(store.glob("jobs/*/input/*/*")), every=0.001, what="the file is being read")
        second.replace(first)

    replacing = threading.Thread(target=replace)
    replacing.start()
    taken = trigger.look()
    replacing.join()
    taken += trigger.look()
    assert [client.job(job_id).status().rows for job_id in taken] == [100_000, 1]
    assert (inbox / "done" / "a.jsonl").read_text() == LINE


def test_a_refused_file_lies_beside_its_reasons(trigger: FolderTrigger, inbox: Path, client: Client) -> None:
    (inbox / "bad.jsonl").write_text(LINE + "{\n" + '{"custom_id": "x", "input": "b"}\n' * 2)
    assert trigger.look() == []
    assert _names(inbox) == ["rejected"]
    assert _names(inbox / "rejected") == ["bad.jsonl", "bad.jsonl.error.json"]
    report = json.loads((inbox / "rejected" / "bad.jsonl.error.json").read_text())
    assert report["file"] == "bad.jsonl"
    assert "line 2" in report["message"]
    assert [(problem["where"].rpartition(", ")[2], problem["code"]) for problem in report["problems"]] == [
        ("line 2", "bad_json"),
        ("line 4", "duplicate_custom_id"),
    ]
    assert list(client.jobs()) == []
    (inbox / "bad.jsonl").write_text("{\n")
    trigger.look()
    assert len([name for name in _names(inbox / "rejected") if name.endswith(".error.json")]) == 2


@pytest.mark.parametrize("name", ["picture.png", "table.json", "noname"])
def test_a_file_that_is_no_input_is_rejected(trigger: FolderTrigger, inbox: Path, name: str) -> None:
    (inbox / name).write_text("?")
    assert trigger.look() == []
    assert _names(inbox / "rejected") == [name, f"{name}.error.json"]


def test_an_empty_file_is_rejected_once_it_stays_empty(trigger: FolderTrigger, inbox: Path) -> None:
    (inbox / "empty.jsonl").touch()
    trigger.look()
    assert _names(inbox) == ["empty.jsonl"]
    eventually(lambda: trigger.look() or (inbox / "rejected").exists(), what="it is rejected")
    report = json.loads((inbox / "rejected" / "empty.jsonl.error.json").read_text())
    assert report["problems"][0]["code"] == "empty_input"


def test_a_file_that_is_empty_at_first_is_taken_once_it_is_written(trigger: FolderTrigger, inbox: Path) -> None:
    (inbox / "a.jsonl").touch()
    assert trigger.look() == []
    (inbox / "a.jsonl").write_text(LINE)
    assert len(trigger.look()) == 1


def test_hidden_and_temporary_names_folders_and_links_are_left_alone(trigger: FolderTrigger, inbox: Path) -> None:
    left = [".hidden.jsonl", "a.jsonl.part", "a.jsonl.tmp", "a.jsonl~", "~a.jsonl", "a.crdownload"]
    for name in left:
        (inbox / name).write_text(LINE)
    (inbox / "folder").mkdir()
    (inbox / "folder" / "inner.jsonl").write_text(LINE)
    (inbox / "link.jsonl").symlink_to(inbox / "folder" / "inner.jsonl")
    os.mkfifo(inbox / "pipe.jsonl")
    (inbox / "good.jsonl").write_text(LINE)
    assert len(trigger.look()) == 1
    assert set(_names(inbox)) == {*left, "done", "folder", "link.jsonl", "pipe.jsonl"}


def test_what_lies_in_done_and_rejected_is_not_taken_again(trigger: FolderTrigger, inbox: Path) -> None:
    (inbox / "good.jsonl").write_text(LINE)
    (inbox / "bad.jsonl").write_text("{\n")
    assert len(trigger.look()) == 1
    assert trigger.look() == []
    assert _names(inbox) == ["done", "rejected"]


@pytest.mark.parametrize(
    "name", ["data[1].jsonl", "50% *.jsonl", "a::b.jsonl", "ünïcode ☃.jsonl", "-.jsonl", "a'b.jsonl"]
)
def test_a_file_of_any_name_is_taken(trigger: FolderTrigger, inbox: Path, name: str) -> None:
    (inbox / name).write_text(LINE)
    assert len(trigger.look()) == 1
    assert _names(inbox / "done") == [name]


def test_a_job_is_accepted_and_the_file_moved_while_the_broker_is_away(tmp_path: Path, inbox: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    settings = settings_for(tmp_path, f"embedded://{tmp_path}/file/broker.db")
    (inbox / "a.jsonl").write_text(LINE)
    (job_id,) = FolderTrigger(settings, inbox, "embed").look()
    assert _names(inbox / "done") == ["a.jsonl"]
    with Client(settings=settings) as client:
        assert client.ledger.unpublished() == [job_id]


def test_a_file_stays_while_the_store_is_away_and_is_taken_later(
    trigger: FolderTrigger, inbox: Path, settings: Settings, tmp_path: Path
) -> None:
    store, away = Path(settings.store), tmp_path / "away"
    store.rename(away)
    (inbox / "a.jsonl").write_text(LINE)
    assert trigger.look() == []
    assert _names(inbox) == ["a.jsonl"]
    shutil.rmtree(store, ignore_errors=True)
    away.rename(store)
    assert len(eventually(trigger.look, what="it is taken")) == 1
    assert _names(inbox / "done") == ["a.jsonl"]


def test_without_events_files_are_found_by_looking(settings: Settings, inbox: Path) -> None:
    trigger, stop = FolderTrigger(settings, inbox, "embed", poll=True), threading.Event()
    running = threading.Thread(target=trigger.run, args=(stop,))
    running.start()
    try:
        (inbox / "a.jsonl").write_text(LINE)
        eventually((inbox / "done" / "a.jsonl").exists, what="it is taken")
    finally:
        stop.set()
        running.join()


def test_a_folder_in_the_store_is_refused(settings: Settings) -> None:
    folder = Path(settings.store) / "inbox"
    folder.mkdir(parents=True)
    with pytest.raises(SettingsError, match="lies in the store"):
        FolderTrigger(settings, folder, "embed")


def test_a_folder_that_is_missing_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist; make it first"):
        FolderTrigger(settings, tmp_path / "nowhere", "embed")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_rejected(trigger: FolderTrigger, inbox: Path) -> None:
    (inbox / "a.jsonl").write_text(LINE)
    (inbox / "a.jsonl").chmod(0)
    trigger.look()
    report = json.loads((inbox / "rejected" / "a.jsonl.error.json").read_text())
    assert report["problems"][0]["code"] == "permission_denied"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_whether_a_file_of_somebody_else_is_being_written_is_not_guessed() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        Path(folder).chmod(0o755)
        path = Path(folder) / "a.jsonl"
        path.write_text(LINE)
        assert is_being_written(path) is False
        os.seteuid(65534)
        try:
            answer = is_being_written(path)
        finally:
            os.seteuid(0)
        assert answer is None
