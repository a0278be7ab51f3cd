"""What a program that uses the SDK can rely on."""

from __future__ import annotations

import base64
import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdshort.jobs import (
    BatchInferenceJob,
    Client,
    HoldshortError,
    IdempotencyConflict,
    NotAllowedNow,
    RefusedInput,
    ResultRow,
    Settings,
    UnknownJob,
    UnknownPool,
)
from support.checks import assert_exactly_once, rows
from support.commands import Commands
from support.holdshort import Processes


def _objects(settings: Settings) -> set[str]:
    """All that lies in the store."""
    root = Path(settings.store)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_results_come_in_input_order_while_the_job_runs(client: Client, processes: Processes) -> None:
    job = client.submit(BatchInferenceJob(pool="slow", input=rows(200), shard_rows=10, max_parallelism=3))
    processes.worker(pool="slow")
    found: list[str] = []
    for row in job.results():
        if not found:
            assert not job.status().has_ended
        found.append(row.custom_id)
    assert found == [row["custom_id"] for row in rows(200)]
    assert_exactly_once(job, 200, job.wait(timeout=10))
    assert [len(shard) for shard in job.result_shards(first=18)] == [10, 10]


def test_a_wait_that_took_too_long_leaves_the_job_as_it_is(client: Client) -> None:
    job = client.submit(BatchInferenceJob(pool="embed", input=["a"]))
    with pytest.raises(TimeoutError, match="it runs on"):
        job.wait(timeout=0.05)
    assert job.status().state == "queued"


def test_the_same_key_and_content_are_the_same_job(client: Client, settings: Settings) -> None:
    first = client.submit(BatchInferenceJob(pool="embed", input=rows(600), idempotency_key="k", priority="bulk"))
    before = _objects(settings)
    again = client.submit(BatchInferenceJob(pool="embed", input=rows(600), idempotency_key="k", deadline="2h"))
    assert again.id == first.id
    assert again.status().deadline_at is None  # the first one's word counts
    assert {name for name in _objects(settings) - before if not name.startswith("outbox")} == set()


@pytest.mark.parametrize(
    "other",
    [
        BatchInferenceJob(pool="embed", input=rows(601), idempotency_key="k"),
        BatchInferenceJob(pool="embed", input=[*rows(599), {"custom_id": "x", "input": "y"}], idempotency_key="k"),
        BatchInferenceJob(pool="slow", input=rows(600), idempotency_key="k"),
        BatchInferenceJob(pool="embed", input=rows(600), params={"a": 1}, idempotency_key="k"),
        BatchInferenceJob(pool="embed", input=["one"], idempotency_key="k"),
    ],
    ids=["more rows", "another row", "another pool", "other params", "a small input"],
)
def test_the_same_key_with_other_content_is_refused_and_leaves_nothing(
    client: Client, settings: Settings, other: BatchInferenceJob
) -> None:
    first = client.submit(BatchInferenceJob(pool="embed", input=rows(600), idempotency_key="k"))
    before = _objects(settings)
    with pytest.raises(IdempotencyConflict, match="Nothing was submitted"):
        client.submit(other)
    # An entry in the outbox only makes a controller look.
    assert {name for name in _objects(settings) - before if not name.startswith("outbox")} == set()
    assert [status.id for status in client.jobs()] == [first.id]
    assert [status.rows for status in client.jobs(active=True)] == [600]


def test_each_tenant_has_keys_of_its_own(client: Client) -> None:
    jobs = {
        client.submit(BatchInferenceJob(pool="embed", input=["a"], idempotency_key="k", tenant=tenant)).id
        for tenant in (None, "a", "b", "a")
    }
    assert len(jobs) == 3


def test_several_processes_that_submit_the_same_at_once_make_one_job(
    client: Client, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(3000)))
    run = Commands(tmp_path, settings)
    started = [run.start("submit", "embed", "rows.jsonl", "--key", "k") for _ in range(3)]
    ids = {process.communicate(timeout=60)[0].strip() for process in started}
    assert [process.returncode for process in started] == [0, 0, 0]
    (status,) = client.jobs()
    assert ids == {status.id}
    assert len(list((Path(settings.store) / "jobs" / status.id / "input").iterdir())) == 1


def test_a_refused_input_leaves_nothing_in_the_store(client: Client, settings: Settings) -> None:
    before = _objects(settings)
    with pytest.raises(RefusedInput, match=r"row 2001"):
        client.submit(BatchInferenceJob(pool="embed", input=[*rows(2000), 17]))

    def failing() -> Iterator[dict[str, str]]:
        yield from rows(2000)
        raise OSError("the disk has gone")

    with pytest.raises(OSError, match="the disk has gone"):
        client.submit(BatchInferenceJob(pool="embed", input=failing()))
    assert _objects(settings) == before
    assert list(client.jobs()) == []


def test_rows_of_a_generator_are_stored_as_they_come(client: Client, settings: Settings) -> None:
    store, stored = Path(settings.store), 0

    def generate() -> Iterator[str]:
        nonlocal stored
        for number in range(50_000):
            if number == 40_000:
                stored = len(list(store.glob("jobs/*/input/*/*")))
            yield f"text {number}"

    job = client.submit(BatchInferenceJob(pool="embed", input=generate()))
    assert job.record.rows == 50_000
    assert stored >= 40_000 // 256 - 2


def test_an_unknown_pool_is_refused_with_the_nearest_name_before_anything_is_read(client: Client) -> None:
    def generate() -> Iterator[str]:
        raise AssertionError("it was read")
        yield ""

    with pytest.raises(UnknownPool, match="did you mean 'embed'"):
        client.submit(BatchInferenceJob(pool="embd", input=generate()))
    with pytest.raises(UnknownPool, match="did you mean 'slow'"):
        client.hold("slo")
    with pytest.raises(UnknownPool):
        client.lane("nothing-like-it")


def test_a_job_is_found_by_any_process_that_knows_its_id(client: Client, settings: Settings) -> None:
    job = client.submit(BatchInferenceJob(pool="embed", input=["a"], metadata={"team": "search"}))
    with Client(settings=settings) as other:
        assert other.job(job.id).status().metadata == {"team": "search"}
        assert other.job(job.id[:12]).id == job.id
        with pytest.raises(UnknownJob):
            other.job("01" + "z" * 24)
        with pytest.raises(UnknownJob):
            other.job("../../etc/passwd")


def test_a_job_whose_record_is_damaged_hides_no_other(client: Client, settings: Settings) -> None:
    damaged, good = (client.submit(BatchInferenceJob(pool="embed", input=["a"])) for _ in range(2))
    (Path(settings.store) / "jobs" / damaged.id / "job.json").write_bytes(b"{")
    with Client(settings=settings) as other:
        assert [status.id for status in other.jobs()] == [good.id]
        assert other.pools()[0].active_jobs == 1
        with pytest.raises(HoldshortError, match="can't be read"):
            other.job(damaged.id)


def test_only_an_ended_job_with_rows_that_are_not_ok_can_be_retried(client: Client) -> None:
    job = client.submit(
        BatchInferenceJob(pool="embed", input=["a"], metadata={f"k{number}": "v" for number in range(16)})
    )
    with pytest.raises(NotAllowedNow, match="only an ended job"):
        client.retry(job.id)
    job.cancel()
    again = client.retry(job.id)
    assert again.status().metadata == {f"k{number}": "v" for number in range(16)}
    with pytest.raises(NotAllowedNow, match="has ended"):
        job.pause()


def test_what_was_steered_is_told_apart_from_what_was_so_already(client: Client) -> None:
    job = client.submit(BatchInferenceJob(pool="embed", input=["a"]))
    assert [job.pause(), job.pause(), job.resume(), job.resume()] == [True, False, True, False]
    assert [job.cancel("why"), job.cancel()] == [True, False]
    assert [client.clear("embed"), client.hold("embed").reason, client.clear("embed")] == [
        False,
        "no reason given",
        True,
    ]


def test_every_error_is_one_of_ours(client: Client) -> None:
    for error in (RefusedInput, UnknownPool, UnknownJob, NotAllowedNow, IdempotencyConflict):
        assert issubclass(error, HoldshortError)


def test_an_embedding_is_read_from_either_form() -> None:
    def row(body: object) -> ResultRow:
        response = None if body is None else {"status_code": 200, "body": body}
        error = {"code": "too_long", "message": "x"} if body is None else None
        return ResultRow(json.dumps({"custom_id": "a", "response": response, "error": error}).encode())

    packed = base64.b64encode(struct.pack("<2f", 0.5, -2.0)).decode()
    assert row({"data": [{"embedding": [0.5, -2.0]}]}).embedding == [0.5, -2.0]
    assert row({"data": [{"embedding": packed}]}).embedding == [0.5, -2.0]
    for body in ({"echo": "x"}, {"data": []}, None):
        with pytest.raises(ValueError, match="no embedding"):
            _ = row(body).embedding


def test_a_client_is_made_in_a_fresh_process_without_any_configuration(tmp_path: Path) -> None:
    run = Commands(tmp_path, None)
    code = (
        "from holdshort.jobs import BatchInferenceJob, Client\n"
        "with Client() as client:\n"
        "    job = client.submit(BatchInferenceJob(pool='embed', input=['a']))\n"
        "    print(job.status().state)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], env=run.environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (found.stdout, found.stderr) == ("queued\n", "")
    assert (tmp_path / "home" / "data" / "holdshort" / "store").is_dir()
