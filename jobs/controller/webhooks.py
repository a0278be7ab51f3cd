"""Tells a job's webhook that it has ended: signed, retried, each try recorded.

Signed as Standard Webhooks (https://www.standardwebhooks.com) says, with the event names of OpenAI's batch API,
so clients' existing verification works.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import orjson
from pydantic import SecretStr

from ...storage.errors import Corrupt, SettingsError, UnknownJob
from ..ledger import Ledger, layout
from ..record import JobRecord, Outcome

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

PAUSES_S = (0.0, 2.0, 10.0, 60.0, 300.0, 1800.0, 7200.0, 14400.0, 28800.0)
"""Pause before each try; after the last one the webhook is given up (about 15 hours)."""
TIMEOUT_S = 10.0
KEY_BYTES = 24
"""The least that Standard Webhooks allows."""


def sign(secret: SecretStr, event_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` header. Raises SettingsError for a secret of another form than "whsec_<base64>"."""
    signed = f"{event_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(_key(secret), signed, hashlib.sha256).digest()).decode()


def _key(secret: SecretStr) -> bytes:
    prefix, _, text = secret.get_secret_value().partition("_")
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        key = b""
    if prefix != "whsec" or len(key) < KEY_BYTES:
        raise SettingsError(
            f"webhook_secret: must be whsec_ followed by at least {KEY_BYTES} bytes in base64; "
            f'echo "whsec_$(openssl rand -base64 32)" makes one.'
        )
    return key


class WebhookSender:
    """Delivers what is due; any number of senders may run, a receiver tells copies by their id.

    Args:
        secret: signs the deliveries; without one they go unsigned.
        clock: seconds since the epoch.
    """

    def __init__(self, ledger: Ledger, secret: SecretStr | None, *, clock: Callable[[], float] = time.time) -> None:
        self._ledger = ledger
        self._secret = secret
        self._clock = clock
        if secret is not None:
            sign(secret, "", 0, b"")
        self._client: httpx.Client | None = None

    def send_due(self, stop: threading.Event) -> None:
        """Try each webhook whose next try is due, once."""
        store = self._ledger.store
        for job_id in store.list(layout.WEBHOOKS):
            if stop.is_set():
                return
            try:
                record = self._ledger.record(job_id)
                outcome = self._ledger.outcome(job_id)
            except UnknownJob:
                store.delete(layout.webhook_due(job_id))
                continue
            except Corrupt as error:
                log.warning("the webhook of job %s waits: %s", job_id, error)
                continue
            if outcome is not None:
                self._try(record, outcome)

    def close(self) -> None:
        """Close what is kept open between deliveries."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _try(self, record: JobRecord, outcome: Outcome) -> None:
        store = self._ledger.store
        tried = store.list(layout.deliveries(record.id))
        if len(tried) >= len(PAUSES_S):
            log.error("the webhook of job %s is given up after %d tries", record.id, len(tried))
            store.delete(layout.webhook_due(record.id))
            return
        if tried:
            last = orjson.loads(store.read(f"{layout.deliveries(record.id)}/{tried[-1]}"))["at"]
            if self._clock() < last + PAUSES_S[len(tried)]:
                return
        answer = self._post(record, outcome)
        note = orjson.dumps({"at": self._clock(), "answer": answer})
        store.create(layout.delivery(record.id, len(tried) + 1), note)
        if answer.startswith("2"):
            store.delete(layout.webhook_due(record.id))
            log.info("the webhook of job %s was told", record.id)
        else:
            log.warning("the webhook of job %s: %s; it is tried again", record.id, answer)

    def _post(self, record: JobRecord, outcome: Outcome) -> str:
        """The status code, or what went wrong."""
        import httpx

        if self._client is None:
            # A redirect could lead anywhere, so none is followed.
            self._client = httpx.Client(timeout=TIMEOUT_S, follow_redirects=False)
        event_id, timestamp = f"evt_{record.id}", int(self._clock())
        body = orjson.dumps(
            {
                "id": event_id,
                "object": "event",
                "created_at": int(outcome.ended_at),
                "type": f"batch.{outcome.state}",
                "data": {"id": record.id, "state": outcome.state, "request_counts": outcome.counts.as_dict()},
            }
        )
        headers = {
            "content-type": "application/json",
            "webhook-id": event_id,
            "webhook-timestamp": str(timestamp),
        }
        if self._secret is not None:
            headers["webhook-signature"] = sign(self._secret, event_id, timestamp, body)
        try:
            return str(self._client.post(record.webhook or "", content=body, headers=headers).status_code)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # ValueError: a host that IDNA forbids
            return f"{type(error).__name__}: {error}"
