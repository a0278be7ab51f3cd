"""A store that waits while the store behind it does not answer."""

from __future__ import annotations

import builtins
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from .errors import StoreUnavailable
from .flow import Flow
from .parted.protocol import Parted
from .store import Capabilities, Located, Store

log = logging.getLogger(__name__)

_R = TypeVar("_R")
_FIRST_S, _MOST_S = 0.1, 5.0


class PatientStore:
    """Tries again, with growing pauses, as long as the store is unavailable or full.

    A create that is tried again may find its own object there, from an answer that was lost: whoever needs
    to know compares the bytes.

    Args:
        store: the store behind.
        patience_s: after how long to give up and raise StoreUnavailable; None: never.
        sleep: how to wait.
    """

    def __init__(
        self, store: Store, *, patience_s: float | None = None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._store = store
        self._patience_s = patience_s
        self._sleep = sleep

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def capabilities(self) -> Capabilities:
        return self._store.capabilities

    def create(self, path: str, data: bytes) -> bool:
        return self._patiently(lambda: self._store.create(path, data))

    def replace(self, path: str, data: bytes) -> None:
        self._patiently(lambda: self._store.replace(path, data))

    def read_tagged(self, path: str) -> tuple[bytes, str]:
        return self._patiently(lambda: self._store.read_tagged(path))

    def replace_if(self, path: str, data: bytes, tag: str) -> bool:
        return self._patiently(lambda: self._store.replace_if(path, data, tag))

    def read(self, path: str, *, first: int | None = None) -> bytes:
        return self._patiently(lambda: self._store.read(path, first=first))

    def upload(self, path: str, parts: Iterable[bytes]) -> None:
        # Parts can be had only once, so whoever has them must begin again.
        self._store.upload(path, parts)

    def read_parts(self, path: str, part_bytes: int = 8 * 2**20) -> Iterator[bytes]:
        return self._store.read_parts(path, part_bytes)

    def read_range(self, path: str, start: int, end: int, flow: Flow) -> bytes:
        return self._store.read_range(path, start, end, flow)

    def size(self, path: str) -> int | None:
        return self._patiently(lambda: self._store.size(path))

    def located(self, path: str) -> Located | None:
        return self._store.located(path)

    @property
    def parted(self) -> Parted | None:
        # Whoever moves bytes has to be able to stop, so it is they who wait.
        return self._store.parted

    def list(self, folder: str) -> builtins.list[str]:
        return self._patiently(lambda: self._store.list(folder))

    def delete(self, path: str) -> None:
        self._patiently(lambda: self._store.delete(path))

    def delete_folder(self, folder: str) -> None:
        self._patiently(lambda: self._store.delete_folder(folder))

    def _patiently(self, act: Callable[[], _R]) -> _R:
        pause, begin = _FIRST_S, time.monotonic()
        while True:
            try:
                return act()
            except StoreUnavailable as error:
                waited = time.monotonic() - begin
                if self._patience_s is not None and waited >= self._patience_s:
                    raise
                log.warning("%s Waiting (for %.1f s so far).", error, waited)
                self._sleep(pause * random.uniform(0.7, 1.0))  # noqa: S311 - spreads load, guards nothing
                pause = min(_MOST_S, pause * 2)
