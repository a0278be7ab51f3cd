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
from typing import TYPE_CHECKING

import orjson
from pydantic import SecretStr

from ...storage.errors import SettingsError, UnknownJob
from ..ledger import Ledger, layout
from ..record import JobRecord, Outcome

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

PAUSES_S = (0.0, 2.0, 10.0, 60.0, 300.0, 1800.0, 7200.0, 14400.0, 28800.0)
"""Pause before each try; after the last one the webhook is given up (about 15 hours)."""
TIMEOUT_S = 10.0


def sign(secret: SecretStr, event_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` header. Raises SettingsError for a secret of another form than "whsec_<base64>"."""
    try:
        key = base64.b64decode(secret.get_secret_value().removeprefix("whsec_"), validate=True)
    except ValueError as error:
        raise SettingsError(
            "webhook_secret: must be whsec_ followed by base64; `openssl rand -base64 32` makes one."
        ) from error
    signed = f"{event_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


class WebhookSender:
    """Delivers what is due; any number of senders may run, a receiver tells copies by their id.

    Args:
        secret: signs the deliveries; without one they go unsigned.
    """

    def __init__(self, ledger: Ledger, secret: SecretStr | None) -> None:
        self._ledger = ledger
        self._secret = secret
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
            except UnknownJob:
                store.delete(layout.webhook_due(job_id))
                continue
            outcome = self._ledger.outcome(job_id)
            if outcome is not None:
                self._try(record, outcome)

    def _try(self, record: JobRecord, outcome: Outcome) -> None:
        store = self._ledger.store
        tried = store.list(layout.deliveries(record.id))
        if len(tried) >= len(PAUSES_S):
            log.error("the webhook of job %s is given up after %d tries", record.id, len(tried))
            store.delete(layout.webhook_due(record.id))
            return
        last = outcome.ended_at
        if tried:
            last = orjson.loads(store.read(f"{layout.deliveries(record.id)}/{tried[-1]}"))["at"]
        if time.time() < last + PAUSES_S[len(tried)]:
            return
        answer = self._post(record, outcome)
        note = orjson.dumps({"at": time.time(), "answer": answer})
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
        event_id, timestamp = f"evt_{record.id}", int(time.time())
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
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"
