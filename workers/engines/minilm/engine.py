"""The engine `minilm`: OpenAI embeddings requests, answered by all-MiniLM-L6-v2 on the CPU."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....jobs.rows import Row, RowError
from ....storage.errors import EngineError, MissingExtra
from ..protocol import BaseEngine, EngineInfo, Unit
from . import files
from .request import parse, text_name

if TYPE_CHECKING:
    from .model import Session, Stop, Vector
    from .tokens import WordPieces

MODEL = "all-MiniLM-L6-v2"
_MAX_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class _Window:
    """The payload of a unit: the part of the row's text number `text` that the model sees at once."""

    text: int
    ids: list[int]


@dataclass(frozen=True, slots=True)
class _Embedded:
    """The output of a unit."""

    text: int
    tokens: int
    vector: Vector


class MiniLM(BaseEngine):
    """Embeddings of 384 numbers; the int8 weights are stored so, and computed with as float32.

    A unit is one window of at most 256 tokens, and costs its tokens. The result of a text does not depend on
    what else is in its micro-batch, because windows are run one by one. `interrupt` stops a window in the middle,
    within milliseconds.

    Args:
        threads: threads that one window is computed by; by default one per processor that the process may use.
            Set it where a container's CPU limit is lower than that.
        max_tokens: longest text that is accepted, in tokens.
        weights: path of the weights, where the package that carries them is not installed. They have to be
            the same, bit for bit.
    """

    def __init__(
        self, *, threads: int | None = None, max_tokens: int = _MAX_TOKENS, weights: str | None = None
    ) -> None:
        self._threads = _whole("threads", threads) if threads is not None else _processors()
        self._max_tokens = _whole("max_tokens", max_tokens)
        self._weights = None if weights is None else Path(weights).expanduser()
        self._runtime = ""
        self._word_pieces: WordPieces | None = None
        self._session: Session | None = None
        self._lock = threading.Lock()
        self._running: Stop | None = None

    @property
    def info(self) -> EngineInfo:
        if not self._runtime:
            raise EngineError("The engine minilm is not loaded, so the version of its runtime is not known.")
        return EngineInfo("minilm", self._runtime, f"sha256:{files.WEIGHTS_SHA256}")

    def load(self) -> None:
        # Since 1.29 the runtime sends what it runs to its maker, and keeps a file of it, unless told not to before it
        # is imported: https://github.com/microsoft/onnxruntime/pull/27379. Whoever wants that sets it to "0".
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        try:
            from .model import RUNTIME
            from .tokens import WordPieces
        except ModuleNotFoundError as error:
            raise MissingExtra("The engine minilm", extra="minilm", module=error.name or "onnxruntime") from error
        except ImportError as error:
            raise EngineError(f"The engine minilm can't import its runtime: {error}") from error
        self._runtime = RUNTIME
        self._word_pieces = WordPieces(files.tokenizer())
        self.resume()

    def units(self, row: Row) -> Sequence[Unit] | RowError:
        if self._word_pieces is None:
            raise EngineError("The engine minilm is not loaded.")
        request = parse(row.url, row.body)
        if isinstance(request, RowError):
            return request
        units: list[Unit] = []
        for index, text in enumerate(request.texts):
            tokens = self._word_pieces.read(text, most=self._max_tokens)
            if not tokens.ids:
                return RowError("bad_request", f'"{text_name(request.texts, index)}" holds nothing but white space.')
            if len(tokens.ids) <= self._max_tokens:
                windows = tokens.windows()
            elif request.truncate:
                windows = [tokens.first_window()]
            else:
                return self._too_long(text_name(request.texts, index), text, len(tokens.ids), tokens.is_whole)
            units += [Unit(len(ids), _Window(index, ids)) for ids in windows]
        return units

    def infer(self, units: Sequence[Unit]) -> Sequence[Any | RowError]:
        from .model import Stop

        session = self._session
        if session is None:
            raise EngineError("The engine minilm is not loaded, or suspended; resume it first.")
        stop = Stop()
        with self._lock:
            self._running = stop
        try:
            windows: list[_Window] = [unit.payload for unit in units]
            return [_Embedded(window.text, len(window.ids), session.run(window.ids, stop)) for window in windows]
        finally:
            with self._lock:
                self._running = None

    def finish(self, row: Row, outputs: Sequence[Any]) -> dict[str, Any] | RowError:
        from .model import as_base64, combine

        request = parse(row.url, row.body)
        if isinstance(request, RowError):
            return request
        embedded: list[_Embedded] = list(outputs)
        windows: list[list[_Embedded]] = [[] for _ in request.texts]
        for window in embedded:
            windows[window.text].append(window)
        vectors = [
            found[0].vector if len(found) == 1 else combine((window.tokens, window.vector) for window in found)
            for found in windows
        ]
        tokens = sum(window.tokens for window in embedded)
        return {
            "object": "list",
            "data": [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": as_base64(vector) if request.base64 else vector,
                }
                for index, vector in enumerate(vectors)
            ],
            "model": MODEL,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "system_fingerprint": self.info.fingerprint,
        }

    def interrupt(self) -> None:
        with self._lock:
            if self._running is not None:
                self._running.set()

    def suspend(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def resume(self) -> None:
        if self._session is None:
            from .model import Session

            self._session = Session(files.weights(self._weights), self._threads)

    def close(self) -> None:
        self.suspend()
        self._word_pieces = None

    def _too_long(self, name: str, text: str, tokens: int, is_whole: bool) -> RowError:
        return RowError(
            "too_long",
            f'"{name}" has {tokens if is_whole else f"more than {self._max_tokens}"} tokens ({len(text)} characters); '
            f'this pool accepts {self._max_tokens}. Split the text, set "truncate": true to embed only its first '
            f"window, or raise the pool's option max_tokens.",
        )


def _whole(option: str, value: object) -> int:
    if type(value) is int and value >= 1:
        return value
    raise EngineError(f"{option} = {value!r} is not a whole number of at least 1.")


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
