"""`submit`, `status`, `results`, `retry`: from rows to results."""

from __future__ import annotations

import json
import re
import signal
import subprocess

import pytest

from support.commands import PROGRAM, Commands
from support.house import House
from support.waiting import eventually

ID = re.compile(r"[a-z0-9]{26}")


def test_submit_prints_the_id_and_nothing_else(run: Commands, house: House) -> None:
    ran = run("submit", "embed", house.write("one.jsonl", "a"))
    assert ID.fullmatch(ran.out.strip())
    assert ran.err == ""


def test_waiting_for_a_job_whose_rows_are_all_ok_exits_with_0(run: Commands, house: House) -> None:
    file = house.write("good.jsonl", "a", "b", "c")
    ran = run("submit", "embed", file, "--wait", "--json", "-p", "urgent", "-d", "1h", "-m", "team=search")
    assert ran.json["state"] == "completed"
    assert ran.json["counts"] == {"ok": 3, "error": 0, "expired": 0, "cancelled": 0}
    assert ran.json["priority"] >= 7
    assert ran.json["metadata"] == {"team": "search"}
    assert "3 of 3 rows" in ran.err
    assert "completed" in run("status", ran.json["id"], "--wait").out


def test_waiting_for_a_job_with_a_row_that_failed_exits_with_5_and_retry_takes_that_row_alone(
    run: Commands, house: House
) -> None:
    ran = run("submit", "embed", house.write("mixed.jsonl", "a", "bad", "c"), "--wait", code=5)
    job_id = ran.out.split()[0]
    assert "2 ok, 1 error" in ran.out
    assert run("status", job_id, "--json", code=5).json["counts"]["error"] == 1
    (failed,) = run("results", job_id, "--failed", "--json").json
    assert failed["custom_id"] == "1"
    assert "cannot digest" in failed["error"]["message"]
    again = run("retry", job_id, "--wait", "--json", code=5).json
    assert (again["rows"], again["metadata"]["retry_of"]) == (1, job_id)
    assert run("retry", job_id).out.strip() == again["id"]
    assert again["id"] != job_id


def test_an_idempotency_key_gives_the_same_job_and_refuses_other_rows(run: Commands, house: House) -> None:
    file = house.write("keyed.jsonl", "a")
    first = run("submit", "embed", file, "--key", "nightly").out
    assert run("submit", "embed", file, "--key", "nightly").out == first
    assert run("submit", "embed", file, "--key", "nightly", "--tenant", "other").out != first
    house.write("keyed.jsonl", "b")
    assert "nightly" in run("submit", "embed", file, "--key", "nightly", code=3).err


def test_rows_come_from_standard_input(run: Commands) -> None:
    ran = run("submit", "embed", "-", "--wait", "--json", stdin='{"custom_id": "x", "input": "a"}\n\n{"input": "b"}\n')
    assert ran.json["counts"]["ok"] == 2
    refused = run("submit", "embed", "-", stdin='{"input": "a"}\nnot json\n{"input": "b"}\n{\n', code=3)
    assert "standard input, line 2" in refused.err
    assert "And 1 more problem. Nothing was submitted" in refused.err


def test_a_refused_file_exits_with_3_and_names_the_line(run: Commands, house: House) -> None:
    (house.folder / "broken.jsonl").write_text('{"input": "a"}\n{"input": \n')
    ran = run("submit", "embed", "broken.jsonl", code=3)
    assert "broken.jsonl, line 2" in ran.err
    assert "Nothing was submitted" in ran.err
    run("submit", "embed", "missing.jsonl", code=3)


@pytest.mark.parametrize(
    ("option", "named"),
    [
        (["-p", "12"], "priority"),
        (["-d", "soon"], "deadline"),
        (["--max-attempts", "0"], "max_attempts"),
        (["--webhook", "ftp://x"], "webhook"),
        (["-m", f"{'k' * 65}=v"], "metadata"),
        (["--tenant", "a b"], "tenant"),
    ],
)
def test_a_refused_option_exits_with_3_and_is_named(run: Commands, house: House, option: list[str], named: str) -> None:
    ran = run("submit", "embed", house.write("one.jsonl", "a"), *option, code=3)
    assert named in ran.err


def test_an_unknown_pool_exits_with_4_and_names_the_nearest(run: Commands, house: House) -> None:
    assert "did you mean 'embed'" in run("submit", "embd", house.write("one.jsonl", "a"), code=4).err


def test_a_job_is_named_by_the_beginning_of_its_id(run: Commands, house: House) -> None:
    job_id = house.ended("a")
    assert run("status", job_id[:14], "--json").json["id"] == job_id
    assert run("status", job_id.upper(), "--json").json["id"] == job_id
    house.submit("b", pool="idle")
    ambiguous = run("status", job_id[:4], code=4).err
    assert "write more of it" in ambiguous
    for unknown in ("01aaaaaaaaaaaaaaaaaaaaaaaa", "../../etc", "xyz"):
        assert "holdshort jobs" in run("status", unknown, code=4).err


def test_results_come_in_input_order(run: Commands, house: House) -> None:
    job_id = house.ended(*(f"text {number}" for number in range(300)))
    lines = [json.loads(line) for line in run("results", job_id).out.splitlines()]
    assert [line["response"]["body"]["echo"] for line in lines] == [f"text {number}" for number in range(300)]
    assert run("results", job_id, "--json").json == lines


def test_a_reader_that_has_had_enough_of_the_results_is_no_failure(run: Commands, house: House) -> None:
    job_id = house.ended(*("x" * 1000 for _ in range(500)))
    command = f"set -o pipefail; {' '.join(PROGRAM)} results {job_id} | head -n 1"
    found = subprocess.run(
        ["bash", "-c", command], env=run.environment, cwd=run.folder, capture_output=True, text=True, timeout=60
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert len(found.stdout.splitlines()) == 1


def test_a_results_file_appears_once_it_is_whole(run: Commands, house: House) -> None:
    job_id = house.ended("a", "b")
    ran = run("results", job_id, "-o", "results.jsonl")
    assert ran.out == ""
    assert len((house.folder / "results.jsonl").read_text().splitlines()) == 2
    assert not list(house.folder.glob(".*.partial"))
    assert "no-such-folder" in run("results", job_id, "-o", "no-such-folder/results.jsonl", code=2).err


def test_ctrl_c_while_results_are_followed_leaves_no_file(run: Commands, house: House) -> None:
    job_id = house.submit("a", pool="idle")
    following = run.start("results", job_id, "--follow", "-o", "followed.jsonl")
    partial = house.folder / ".followed.jsonl.partial"
    eventually(partial.exists, what="it follows")
    following.send_signal(signal.SIGINT)
    _, err = following.communicate(timeout=20)
    assert following.returncode == 130
    assert "Traceback" not in err
    assert not partial.exists()
    assert not (house.folder / "followed.jsonl").exists()


def test_ctrl_c_while_a_job_is_waited_for_leaves_it_running_and_says_so(run: Commands, house: House) -> None:
    waiting = run.start("submit", "idle", house.write("long.jsonl", "a"), "--wait")
    assert waiting.stdout is not None
    job_id = waiting.stdout.readline().strip()
    assert ID.fullmatch(job_id)
    waiting.send_signal(signal.SIGINT)
    _, err = waiting.communicate(timeout=20)
    assert waiting.returncode == 130
    assert f"job {job_id} runs on" in err
    assert "Traceback" not in err
    assert run("status", job_id, "--json").json["state"] == "queued"


def test_results_of_a_running_job_say_how_far_it_is(run: Commands, house: House) -> None:
    job_id = house.submit("a", pool="idle")
    ran = run("results", job_id)
    assert ran.out == ""
    assert "0 of 1 rows" in ran.err
