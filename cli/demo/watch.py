"""What the lane said while the demo ran, as any worker would have read it."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from ...workers.lane.place import LanePlace
from ...workers.lane.reader import LaneReader

_LOOK_S = 0.01


class LaneWatch:
    """Writes down from when to when a pool's lane was held, in a thread that looks a hundred times a second.

    A hold's beginning is what its source said; its end is seen within 10 ms, and a shorter one may be missed.

    Attributes:
        holds: (from, to) in monotonic seconds; complete once the watch has ended.
    """

    def __init__(self, place: LanePlace, pool: str) -> None:
        self.holds: list[tuple[float, float]] = []
        self._reader = LaneReader(place, pool, on_lost=lambda name: None)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lane-watch", daemon=True)

    def clear_for_s(self) -> float:
        """For how long the lane has been clear; 0.0 while it is held."""
        if self._reader.reading().signal == "hold":
            return 0.0
        return time.monotonic() - self.holds[-1][1] if self.holds else float("inf")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        since: float | None = None
        while not self._over.wait(_LOOK_S):
            reading = self._reader.reading()
            if reading.signal == "hold":
                since = reading.since if since is None else since
            elif since is not None:
                self.holds.append((since, time.monotonic()))
                since = None
        if since is not None:
            self.holds.append((since, time.monotonic()))
