"""A model behind an OpenAI-compatible HTTP server: llama.cpp's own, run in this process by xllamacpp.

What was found out about that server, and is taken care of here or has to be known:

- Its threads sleep while no request is under way. While one is, they spin at the barriers between any two operations,
  so `threads` processors are busy all the time; one thread has no barriers.
- A kept-alive connection occupies one of its HTTP threads for 5 s, so there are many of those.
- It answers a stream's headers at once, so the first byte of the *body* tells when the first token came.
- After a stream it closes the connection without having said so: a client must not use it for another request.
- A client that leaves a stream stops its generation within one token, or one batch of its prompt. Without streaming
  the answer is computed to its end.
- Asked to end, it would wait up to 30 s for open streams, with the interpreter locked. Since it keeps nothing on disk,
  the process ends instead; what is under way is cut off.
"""

from __future__ import annotations

import http.client
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from ...storage.errors import EngineError, MissingExtra

log = logging.getLogger(__name__)

_HTTP_THREADS = 128
_BATCH_TOKENS = 256
"""Prompt tokens per step: as long as one lasts, no other conversation gets a token."""
_ANSWER_TIMEOUT_S = 30.0
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_QUIET, _TALKATIVE = 1, 3
"""llama.cpp's verbosity: errors only, or what each request costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How a model is served."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0: any free port."""
    threads: int | None = None
    """That one step is computed by; by default one per processor that the process may use."""
    parallel: int = 4
    """Conversations that are answered at once; further ones wait."""
    context_tokens: int = 2048
    """The longest conversation, answer included; memory is set aside for `parallel` of them."""
    prompt_cache: bool = True
    """Whether the beginning that a prompt shares with the one before it in its slot is not computed again.

    A measurement of the time to first token has to say which: with it, only what is new in a conversation is read.
    """
    verbose: bool = False


def serve(weights: Path, name: str, how: Serving, ready: Callable[[str], None]) -> NoReturn:
    """Serve a model until SIGTERM or SIGINT, which end the process at once, with exit status 0.

    Args:
        weights: a GGUF file.
        name: what the API calls the model.
        how: where, and with how much.
        ready: called with the server's URL once it answers.

    Raises:
        MissingExtra: xllamacpp is not installed.
        EngineError: the address can't be used, or the model can't be loaded.
    """
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    server = _start(weights, name, how)
    url = str(server.listening_address)
    _wait_until_it_answers(url)
    if how.host not in _LOOPBACK:
        log.warning("%s answers everybody who can reach it, without a key", url)
    ready(url)
    stop.wait()
    log.info("%s ends", url)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # not by closing the server: see above


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(weights: Path, name: str, how: Serving) -> Any:
    """The server, listening, with the model loaded."""
    try:
        xllamacpp: Any = import_module("xllamacpp")
    except ModuleNotFoundError as error:
        raise MissingExtra("Serving a model", extra="chat", module=error.name or "xllamacpp") from error
    except ImportError as error:
        raise EngineError(f"xllamacpp, which serves models, can't be imported: {error}") from error
    _check_address(how.host, how.port)
    given = xllamacpp.CommonParams()
    given.model.path = str(weights)
    given.model_alias = {name}  # instead of the path
    given.offline = True
    given.hostnames = [how.host]
    given.port = how.port
    given.n_threads_http = _HTTP_THREADS
    given.ui = False
    given.cors_origins = ""  # no page of a browser may read answers
    given.endpoint_metrics = True
    given.endpoint_slots = False  # would show what others ask
    for threads in (given.cpuparams, given.cpuparams_batch):
        threads.n_threads = how.threads or processors()
    given.n_parallel = how.parallel
    given.n_ctx = how.context_tokens * how.parallel
    given.n_batch = given.n_ubatch = _BATCH_TOKENS
    given.cache_prompt = how.prompt_cache
    given.cache_ram_mib = 0  # of conversations that lost their slot: by default up to 8 GiB
    given.verbosity = _TALKATIVE if how.verbose else _QUIET
    try:
        return xllamacpp.Server(given)
    except RuntimeError as error:
        raise EngineError(f"llama.cpp can't serve {weights}: {error} Its own message stands above.") from error


def _check_address(host: str, port: int) -> None:
    """Find out what is wrong with an address, which the server itself would only log."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise EngineError(
            f"The model can't be served at {host}, port {port}: {error.strerror or error}. "
            "Name another --port (0: any free one) or --host."
        ) from error


def _wait_until_it_answers(url: str) -> None:
    end = time.monotonic() + _ANSWER_TIMEOUT_S
    address = url.partition("://")[2]
    while True:
        connection = http.client.HTTPConnection(address, timeout=_ANSWER_TIMEOUT_S)
        try:
            connection.request("GET", "/health", headers={"connection": "close"})
            if connection.getresponse().status == http.client.OK:
                return
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() >= end:
                raise EngineError(f"The model's server at {url} does not answer: {error}") from error
        finally:
            connection.close()
        if time.monotonic() >= end:
            raise EngineError(f"The model's server at {url} does not become ready.")
        time.sleep(0.02)
