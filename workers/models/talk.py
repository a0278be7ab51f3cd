"""Talking to an OpenAI-compatible server: one streamed answer, and how long it took."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypedDict, cast
from urllib.parse import urlsplit

import httpx

from ...storage.errors import ModelUnavailable
from .events import EventReader

_CONNECT_TIMEOUT_S = 5.0
_SILENCE_TIMEOUT_S = 300.0
_ERROR_MOST_CHARS = 500


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(slots=True)
class Answer:
    """An answer as far as it has come, and its times as the client sees them."""

    text: str = ""
    tokens: int = 0
    """As the server counts them; without its count, the pieces that came."""
    first_token_s: float | None = None
    """From sending the request to the first piece of text. None: none came."""
    per_token_s: float | None = None
    """Mean time between tokens after the first one. None: there were no two."""
    finish_reason: str | None = None
    """"stop", "length" or the server's other word; None: it was not finished."""
    _pieces: int = field(default=0, repr=False)
    _last_s: float = field(default=0.0, repr=False)

    def add(self, text: str, at_s: float) -> None:
        """A piece came, so long after the request."""
        self.text += text
        self._pieces += 1
        self._last_s = at_s
        if self.first_token_s is None:
            self.first_token_s = at_s
        self.count(max(self.tokens, self._pieces))

    def count(self, tokens: int) -> None:
        """There are so many tokens."""
        self.tokens = tokens
        if self.first_token_s is not None and tokens > 1:
            self.per_token_s = (self._last_s - self.first_token_s) / (tokens - 1)


class Talk(AbstractContextManager["Talk"]):
    """A server to talk to; close it, or use it as a context manager.

    Each request has a connection of its own, since not every server says when it closes one.

    Args:
        url: where the server is, without the path /v1.
        api_key: sent as the bearer token.
        model: as the server calls it; its first one without it.
    """

    def __init__(self, url: str, *, api_key: str | None = None, model: str | None = None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        headers = {"connection": "close"} | ({"authorization": f"Bearer {api_key}"} if api_key else {})
        local = urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")
        self._client = httpx.Client(
            headers=headers,
            trust_env=not local,  # no proxy stands between a machine and itself
            timeout=httpx.Timeout(_SILENCE_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
        )
        self._model = model

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def model(self) -> str:
        """The model that answers. Raises ModelUnavailable."""
        if self._model is None:
            try:
                response = self._client.get(f"{self.url}/v1/models")
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise _away(self.url, error) from error
            if response.status_code != 200:
                raise _refused(self.url, response)
            try:
                self._model = str(response.json()["data"][0]["id"])
            except (ValueError, LookupError, TypeError) as error:
                raise ModelUnavailable(f"{self.url}/v1/models names no model.") from error
        return self._model

    def ask(self, messages: list[Message], answer: Answer, *, max_tokens: int) -> Generator[str]:
        """Pieces of the answer's text, as they come. `answer` is kept up to date, so it is right after a stop too.

        To stop, close the iterator: the server then stops computing.

        Raises:
            ModelUnavailable: nobody answers, the server refuses, or it breaks off in the middle.
        """
        body = {
            "model": self.model(),
            "messages": messages,
            "max_tokens": max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        begin = time.perf_counter()
        try:
            with self._client.stream("POST", f"{self.url}/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise _refused(self.url, response)
                for data in _events(response):
                    for text in _texts(data, answer):
                        answer.add(text, time.perf_counter() - begin)
                        yield text
        except httpx.ConnectError as error:
            raise _away(self.url, error) from error
        except httpx.HTTPError as error:
            raise ModelUnavailable(f"{self.url} broke off: {error or type(error).__name__}") from error
        if answer.finish_reason is None:
            raise ModelUnavailable(f"{self.url} ended the answer before it was finished.")


def _events(response: httpx.Response) -> Iterator[Any]:
    """Each event's JSON, up to the one that says the stream is done."""
    reader = EventReader()
    for chunk in response.iter_bytes():
        for event in reader.feed(chunk):
            if event.data == "[DONE]":
                return
            try:
                yield json.loads(event.data)
            except ValueError as error:
                raise _not_understood(event.data) from error


def _texts(data: Any, answer: Answer) -> list[str]:
    """The texts in an event; what else it says goes into the answer."""
    try:
        if error := data.get("error"):
            raise ModelUnavailable(f"The server broke off: {_message(error)}")
        texts: list[str] = []
        for choice in data.get("choices") or ():
            answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
            delta: dict[str, Any] = choice.get("delta") or {}
            if text := delta.get("content"):
                texts.append(str(text))
        if usage := data.get("usage"):
            answer.count(int(usage["completion_tokens"]))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise _not_understood(json.dumps(data)) from error
    return texts


def _not_understood(text: str) -> ModelUnavailable:
    return ModelUnavailable(f"The server does not stream chat completions; it sent: {text[:_ERROR_MOST_CHARS]}")


def _message(error: Any) -> str:
    if isinstance(error, dict):
        error = cast("dict[str, Any]", error).get("message", error)
    return str(error)[:_ERROR_MOST_CHARS]


def _refused(url: str, response: httpx.Response) -> ModelUnavailable:
    try:
        reason = _message(response.json()["error"])
    except (ValueError, LookupError, TypeError):
        reason = response.text[:_ERROR_MOST_CHARS]
    cure = ""
    if response.status_code in (401, 403):
        cure = " Put the key that it wants into the environment variable HOLDSHORT_API_KEY."
    return ModelUnavailable(f"{url} refuses (HTTP {response.status_code}): {reason}{cure}")


def _away(url: str, error: Exception) -> ModelUnavailable:
    return ModelUnavailable(f"Nothing answers at {url}: {error}")
