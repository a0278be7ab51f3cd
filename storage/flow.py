"""How bytes flow while somebody may want them to stop: in chunks that are over soon, or that can be cut off."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any, TypeVar

from .errors import Interrupted

_R = TypeVar("_R")
_LEAST, _FIRST, _MOST = 64 * 2**10, 2**18, 8 * 2**20
_SHARE = 0.25
_LEARNS = 0.3


class Flow:
    """Asked before each chunk by whatever moves bytes; stopped from another thread.

    Args:
        bound_s: how soon after `stop` no byte may move any more.

    Attributes:
        bound_s: the same.
        moved_bytes: all that has been reported.
    """

    def __init__(self, bound_s: float = 0.05) -> None:
        self.bound_s = bound_s
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._acts: list[Callable[[], object]] = []
        self._bytes_per_s = 0.0
        self._chunk_bytes = _FIRST
        self.moved_bytes = 0

    @property
    def chunk_bytes(self) -> int:
        """How much to move before asking again: what takes a quarter of the bound, by what chunks took lately."""
        return self._chunk_bytes

    def moved(self, size_bytes: int, seconds: float) -> None:
        """Learn from a chunk."""
        with self._lock:
            self.moved_bytes += size_bytes
            if size_bytes >= _LEAST:
                rate = size_bytes / max(seconds, 1e-6)
                # Slower at once, faster by and by: a chunk that is too long breaks a promise.
                known = self._bytes_per_s
                self._bytes_per_s = rate if rate < known or not known else known + (rate - known) * _LEARNS
                fits = int(self._bytes_per_s * self.bound_s * _SHARE)
                self._chunk_bytes = max(_LEAST, min(fits, _MOST, self._chunk_bytes * 2))

    def check(self) -> None:
        """Raises Interrupted once it is stopped."""
        if self._stopped.is_set():
            raise Interrupted("the transfer was interrupted")

    def wait(self, seconds: float) -> None:
        """Sleep; raises Interrupted as soon as it is stopped."""
        self._stopped.wait(seconds)
        self.check()

    def stop(self) -> None:
        """No further chunk; what can be cut off is cut off. From any thread."""
        with self._lock:
            self._stopped.set()
            acts = list(self._acts)
        for act in acts:
            act()

    def go_on(self) -> None:
        """Forget an earlier `stop`."""
        self._stopped.clear()

    @contextmanager
    def cutting(self, act: Callable[[], object]) -> Generator[None]:
        """Around what can be cut off by `act`, which is called at once if it is stopped meanwhile."""
        with self._lock:
            stopped = self._stopped.is_set()
            if not stopped:
                self._acts.append(act)
        if stopped:
            act()
        try:
            yield
        finally:
            with self._lock:
                if act in self._acts:
                    self._acts.remove(act)

    def run(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, _R]) -> _R:
        """The result of a coroutine on another thread's loop; cancelled, and Interrupted raised, when stopped."""
        future = asyncio.run_coroutine_threadsafe(work, loop)
        with self.cutting(future.cancel):
            try:
                return future.result()
            except CancelledError:
                self.check()
                raise


def unstoppable() -> Flow:
    """For what nobody stops."""
    return Flow()
