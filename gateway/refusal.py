"""An answer of the gateway's own, where there is none of the upstream to pass on."""

from __future__ import annotations

from typing import Any

import orjson

Send = Any


class Refusal(Exception):
    """Raised when a request can't be answered by the upstream; it is the answer.

    Args:
        status: of the answer.
        code: for programs and for the metric, e.g. "body_too_large".
        message: for people: what was wrong, and what to do.
        headers: further ones.
    """

    def __init__(self, status: int, code: str, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers

    def body(self) -> bytes:
        """In OpenAI's shape, so that its clients show the message."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return orjson.dumps({"error": {"message": self.message, "type": kind, "param": None, "code": self.code}})


async def answer(
    send: Send, status: int, content_type: bytes, body: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    """Send a whole answer."""
    described = [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": described})
    await send({"type": "http.response.body", "body": body})
