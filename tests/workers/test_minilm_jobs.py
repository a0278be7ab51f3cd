"""Jobs on the real model: the same bytes whatever happened on the way, and micro-batches within the bound."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from holdshort.jobs import BatchInferenceJob, Client, Job, Settings
from holdshort.jobs.settings import PoolSettings
from support.brokers import Broker
from support.holdshort import Processes, settings_for
from support.waiting import eventually

MINILM = {"embed": PoolSettings(engine="minilm")}


@pytest.fixture
def settings(tmp_path: Path, embedded_broker: Broker) -> Settings:
    pytest.importorskip("onnxruntime")
    return settings_for(tmp_path, embedded_broker.url, pools=MINILM, quantum_s=0.7)


def _documents() -> list[dict[str, str]]:
    words = ("hold", "short", "of", "the", "runway", "until", "tower", "clears", "live", "traffic", "queue", "batch")

    def text(number: int) -> str:
        return " ".join(words[(number * 7 + k * (number + 3)) % len(words)] for k in range(3 + number * 5 % 90))

    return [{"custom_id": f"d{number}", "input": text(number)} for number in range(80)]


def _bodies(job: Job) -> list[bytes]:
    """Answers without the ids, which carry the job's name."""
    return [row.line.partition(b'"body":')[2] for row in job.results(follow=False)]


def test_embeddings_are_the_same_bytes_after_kills_parks_and_restarts(
    settings: Settings, client: Client, processes: Processes
) -> None:
    quiet = client.submit(
        BatchInferenceJob(pool="embed", input=_documents(), shard_rows=80, params={"encoding_format": "base64"})
    )
    first = processes.worker()
    assert quiet.wait(timeout=90).all_ok
    troubled = client.submit(
        BatchInferenceJob(
            pool="embed", input=_documents(), shard_rows=20, max_parallelism=2, params={"encoding_format": "base64"}
        )
    )
    eventually(lambda: client.ledger.turns(troubled.id), timeout=30, what="it runs")
    first.kill()
    second = processes.worker()
    eventually(lambda: client.ledger.committed(troubled.id), timeout=60, what="a shard is committed")
    second.send(signal.SIGTERM)
    assert second.wait(timeout=30) == 0
    processes.worker()
    assert troubled.wait(timeout=90).all_ok
    assert _bodies(troubled) == _bodies(quiet)


def test_each_shard_says_which_engine_and_weights_computed_it(
    settings: Settings, client: Client, processes: Processes
) -> None:
    job = client.submit(BatchInferenceJob(pool="embed", input=["hold short"]))
    processes.worker()
    assert job.wait(timeout=60).all_ok
    summary = client.ledger.summary(job.id, 0)
    (row,) = job.results()
    assert summary.engine["name"] == "minilm"
    assert summary.engine["weights"].startswith("sha256:8199be6f699a")
    assert row.body is not None
    assert row.body["system_fingerprint"].endswith("8199be6f699a")
    assert len(row.embedding) == 384


def test_a_row_too_long_for_the_model_is_an_error_row_and_the_job_goes_on(
    settings: Settings, client: Client, processes: Processes
) -> None:
    inputs = ["short", "word " * 20_000, "also short"]
    job = client.submit(BatchInferenceJob(pool="embed", input=inputs))
    processes.worker()
    status = job.wait(timeout=60)
    outcomes = [row.outcome for row in job.results()]
    assert status.state == "completed"
    assert outcomes == ["ok", "error", "ok"]
    error = list(job.results())[1].error
    assert error is not None
    assert error["code"] == "too_long"
