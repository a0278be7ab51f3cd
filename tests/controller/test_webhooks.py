"""A job's webhook is told once that the job has ended, in a way that its receiver can trust."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from holdshort.jobs import BatchInferenceJob, Client, Job, Settings, SettingsError
from holdshort.jobs.controller import Controller
from holdshort.jobs.controller.webhooks import PAUSES_S, WebhookSender
from holdshort.jobs.ledger import layout
from support.brokers import EmbeddedBroker
from support.holdshort import Processes, settings_for
from support.ports import free_port
from support.receiver import Delivery, Receiver
from support.waiting import eventually

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    broker = EmbeddedBroker(tmp_path / "broker")
    broker.start()
    return settings_for(tmp_path, broker.url, webhook_secret=SecretStr(SECRET))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sender(client: Client, clock: Clock) -> WebhookSender:
    return WebhookSender(client.ledger, SecretStr(SECRET), clock=clock)


def _cancelled(client: Client, url: str) -> Job:
    job = client.submit(BatchInferenceJob(pool="embed", input=["a", "b"], webhook=url))
    job.cancel()
    return job


def _is_due(client: Client, job: Job) -> bool:
    return job.id in client.ledger.store.list(layout.WEBHOOKS)


def _answers(client: Client, job: Job) -> list[str]:
    folder = layout.deliveries(job.id)
    store = client.ledger.store
    return [json.loads(store.read(f"{folder}/{name}"))["answer"] for name in store.list(folder)]


def _is_genuine(delivery: Delivery) -> bool:
    """As the Standard Webhooks specification says, without a line of ours."""
    headers = delivery.headers
    signed = b".".join([headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), delivery.body])
    version, _, signature = headers["webhook-signature"].partition(",")
    expected = hmac.new(KEY, signed, hashlib.sha256).digest()
    return version == "v1" and hmac.compare_digest(expected, base64.b64decode(signature))


def test_a_completed_job_tells_its_webhook_once_and_signed(
    settings: Settings, client: Client, processes: Processes, receiver: Receiver, tmp_path: Path
) -> None:
    (tmp_path / "holdshort.toml").write_text(f'webhook_secret = "{SECRET}"\n')
    job = client.submit(BatchInferenceJob(pool="embed", input=["a", "b"], webhook=f"{receiver.url}/hook"))
    processes.worker()
    controller = processes.holdshort("controller")
    assert job.wait(timeout=30).all_ok
    eventually(lambda: _answers(client, job) == ["200"], timeout=30, what="it is told")
    eventually(lambda: not _is_due(client, job), what="it is settled")
    (delivery,) = receiver.deliveries
    assert _is_genuine(delivery)
    assert delivery.path == "/hook"
    assert delivery.headers["content-type"] == "application/json"
    assert abs(int(delivery.headers["webhook-timestamp"]) - time.time()) < 60
    event = json.loads(delivery.body)
    assert event["id"] == delivery.headers["webhook-id"] == f"evt_{job.id}"
    assert (event["object"], event["type"]) == ("event", "batch.completed")
    assert event["data"] == {
        "id": job.id,
        "state": "completed",
        "request_counts": {"ok": 2, "error": 0, "expired": 0, "cancelled": 0},
    }
    assert SECRET.removeprefix("whsec_") not in controller.text()


def test_a_cancelled_and_an_expired_job_say_so(
    settings: Settings, client: Client, sender: WebhookSender, receiver: Receiver
) -> None:
    _cancelled(client, receiver.url)
    past = datetime.now(UTC) - timedelta(hours=1)
    late = client.submit(BatchInferenceJob(pool="embed", input=["a"], webhook=receiver.url, deadline=past))
    controller = Controller(settings)
    assert controller.lease.held()
    controller.sweep()
    assert late.status().state == "expired"
    sender.send_due(threading.Event())
    types = {json.loads(delivery.body)["type"] for delivery in receiver.deliveries}
    assert types == {"batch.cancelled", "batch.expired"}
    assert all(_is_genuine(delivery) for delivery in receiver.deliveries)


def test_a_receiver_that_fails_is_told_again_later_with_the_same_id(
    client: Client, sender: WebhookSender, receiver: Receiver, clock: Clock
) -> None:
    receiver.answers = [500, 503]
    job = _cancelled(client, receiver.url)
    for pause in PAUSES_S[:3]:
        clock.now += pause - 0.5 if pause else 0.0
        before = len(receiver.deliveries)
        if pause:
            sender.send_due(threading.Event())
            assert len(receiver.deliveries) == before  # not before its time
            clock.now += 0.5
        sender.send_due(threading.Event())
        assert len(receiver.deliveries) == before + 1
    assert _answers(client, job) == ["500", "503", "200"]
    assert not _is_due(client, job)
    assert len({delivery.headers["webhook-id"] for delivery in receiver.deliveries}) == 1
    assert len({delivery.headers["webhook-signature"] for delivery in receiver.deliveries}) == 3
    assert all(_is_genuine(delivery) for delivery in receiver.deliveries)
    clock.now += 1e6
    sender.send_due(threading.Event())
    assert len(receiver.deliveries) == 3


def test_a_receiver_that_nobody_can_reach_is_given_up_and_every_try_is_recorded(
    client: Client, sender: WebhookSender, clock: Clock
) -> None:
    job = _cancelled(client, f"http://127.0.0.1:{free_port()}/")
    for pause in PAUSES_S:
        clock.now += pause
        assert _is_due(client, job)
        sender.send_due(threading.Event())
    sender.send_due(threading.Event())
    answers = _answers(client, job)
    assert len(answers) == len(PAUSES_S)
    assert all("ConnectError" in answer for answer in answers)
    assert not _is_due(client, job)
    assert job.status().state == "cancelled"


def test_a_redirect_is_not_followed(client: Client, sender: WebhookSender, receiver: Receiver) -> None:
    receiver.answers = [302]
    job = _cancelled(client, f"{receiver.url}/hook")
    sender.send_due(threading.Event())
    assert [delivery.path for delivery in receiver.deliveries] == ["/hook"]
    assert _answers(client, job) == ["302"]
    assert _is_due(client, job)


def test_a_webhook_that_cannot_be_called_does_not_keep_others_waiting(
    client: Client, sender: WebhookSender, receiver: Receiver
) -> None:
    impossible = [_cancelled(client, url) for url in ("http://a..b/", f"http://{'a' * 70}.example/", "http://xn--/")]
    good = _cancelled(client, receiver.url)
    sender.send_due(threading.Event())
    assert _answers(client, good) == ["200"]
    assert all(len(_answers(client, job)) == 1 for job in impossible)


def test_without_a_secret_deliveries_are_not_signed(client: Client, receiver: Receiver) -> None:
    _cancelled(client, receiver.url)
    WebhookSender(client.ledger, None).send_due(threading.Event())
    (delivery,) = receiver.deliveries
    assert "webhook-signature" not in delivery.headers
    assert delivery.headers["webhook-id"].startswith("evt_")


@pytest.mark.parametrize(
    "secret", ["hunter2", "whsec_", "whsec_hunter2!", "whsec_c2hvcnQ=", SECRET.removeprefix("whsec_")]
)
def test_a_bad_secret_is_refused_at_the_start_without_being_shown(settings: Settings, secret: str) -> None:
    with pytest.raises(SettingsError, match="openssl rand") as refused:
        Controller(settings.model_copy(update={"webhook_secret": SecretStr(secret)}))
    assert secret == "whsec_" or secret not in str(refused.value)


def test_the_secret_is_in_no_representation_and_no_log(
    settings: Settings, client: Client, sender: WebhookSender, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.answers = [500]
    _cancelled(client, receiver.url)
    sender.send_due(threading.Event())
    shown = "\n".join([repr(settings), str(settings), repr(sender), caplog.text])
    assert SECRET.removeprefix("whsec_") not in shown


@pytest.mark.parametrize(
    "url",
    ["ftp://example.org/", "example.org", "http://", "http://a b/", "http://a\nb/", "http://[::1/", "http://a:99999/",
     "http://user:secret@example.org/", "http://@example.org/"],
)  # fmt: skip
def test_a_webhook_that_is_no_url_is_refused_at_submit(url: str) -> None:
    with pytest.raises(ValidationError, match="webhook"):
        BatchInferenceJob(pool="embed", input=["a"], webhook=url)
