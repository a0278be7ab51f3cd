"""Bytes that nobody can change, sent from where they lie."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

from ..reading.buffers import Buffers

_LEAST_BYTES = 256 * 1024
"""Less is sooner copied than sent by calls of its own."""
_MOST_SHARE = 4
"""An object that takes more than such a part of the budget is copied from: a small view of it would keep all of it."""


class Pieces:
    """Bytes in several places as one body; see connections.Body."""

    def __init__(self, views: Sequence[memoryview]) -> None:
        self._views = tuple(views)
        self._begins = list(accumulate(map(len, self._views), initial=0))

    def __len__(self) -> int:
        return self._begins[-1]

    def __getitem__(self, part: slice, /) -> memoryview:
        start, stop, _ = part.indices(len(self))
        place = bisect_right(self._begins, start) - 1
        begin = self._begins[place]
        return self._views[place][start - begin : stop - begin] if start < stop else memoryview(b"")


class Pins:
    """Which `bytes` objects are kept alive to be sent, within the budget of the process. Thread-safe.

    Each counts as a whole, and once, however many views of it are kept.
    """

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self._lock = threading.Lock()
        self._counts: dict[int, int] = {}

    def pin(self, view: memoryview, whole_bytes: int) -> bool:
        """Whether the view may be kept instead of a copy; until `unpin`.

        Args:
            whole_bytes: how much was written at once, of which the view may be the rest.
        """
        owner = view.obj
        if type(owner) is not bytes or whole_bytes < _LEAST_BYTES:
            return False
        if len(owner) > self._buffers.most_bytes // _MOST_SHARE:
            return False
        with self._lock:
            count = self._counts.get(id(owner), 0)
            if not count and not self._buffers.admit(len(owner)):
                return False
            self._counts[id(owner)] = count + 1
        return True

    def unpin(self, views: Iterable[memoryview]) -> None:
        """They are not needed any more; each was pinned."""
        for view in views:
            owner = view.obj
            assert type(owner) is bytes
            with self._lock:
                self._counts[id(owner)] -= 1
                is_last = not self._counts[id(owner)]
                if is_last:
                    del self._counts[id(owner)]
            if is_last:
                self._buffers.dismiss(len(owner))
