"""Requests of this process: many at once, but no more than pay."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from .buffers import Buffers
from .origin import Abandoned, Origin, Source
from .pace import Pace

_URGENT, _AHEAD = 0, 1
_IDLE_S = 10.0


@dataclass(order=True, slots=True)
class _Task:
    order: tuple[int, int]
    run: Callable[[], int] = field(compare=False)


class Fetcher:
    """Runs requests to one store in threads of its own, those that somebody waits for first.

    Args:
        origin: makes the way to the store, told what to call when that says that it is too much.
        connections: requests at once, at most; how many of them pay is found on line.
    """

    def __init__(self, origin: Callable[[Callable[[], None]], Origin], buffers: Buffers, *, connections: int) -> None:
        self.origin = origin(self.refused)
        self.buffers = buffers
        self.pace = Pace(connections)
        self._news = threading.Condition()
        self._waiting: list[_Task] = []
        self._numbers = itertools.count()
        self._in_flight = 0
        self._idle = 0
        self._threads = 0

    def refused(self) -> None:
        """The store said that it is too much."""
        with self._news:
            self.pace.refused(time.monotonic())

    def submit(self, run: Callable[[], int], *, is_ahead: bool = False) -> None:
        """Run a request when it is its turn; it returns how many bytes came from the store, and raises nothing."""
        with self._news:
            heapq.heappush(self._waiting, _Task((_AHEAD if is_ahead else _URGENT, next(self._numbers)), run))
            if self._idle:
                self._news.notify()
            if len(self._waiting) > self._idle and self._threads < self.pace.limit:
                self._start()

    def fill(self, source: Source, pieces: Sequence[tuple[int, memoryview]]) -> None:
        """Fetch ranges into memory, at once, and return when all are there.

        Args:
            pieces: (start, where to).

        Raises:
            StoreError: what the first that failed raised; the others have ended by then.
        """
        failed: list[BaseException] = []

        def give_up(_: int) -> None:
            if failed:
                raise Abandoned

        def one(start: int, into: memoryview) -> int:
            try:
                return 0 if failed else source.read_into(start, into, give_up)
            except Abandoned:
                return 0
            except BaseException as error:
                failed.append(error)
                if not isinstance(error, Exception):
                    raise
                return 0  # whoever waits raises it

        self.each([partial(one, *piece) for piece in pieces])
        if failed:
            try:
                raise failed[0]
            finally:
                failed.clear()  # or it would hold the caller's memory, by way of its own traceback

    def each(self, tasks: Sequence[Callable[[], int]]) -> None:
        """Run many requests, at once, and return when all have ended. A request that runs here may call it, too.

        Args:
            tasks: each returns how many bytes came from the store, and raises nothing.
        """
        left, running = deque(tasks), 0
        news = threading.Condition()

        def one() -> int:
            """Do one that nobody has begun with."""
            nonlocal running
            with news:
                if not left:
                    return 0
                task = left.popleft()
                running += 1
            try:
                return task()
            finally:
                with news:
                    running -= 1
                    news.notify_all()

        def wait() -> None:
            with news:
                while running:
                    news.wait()

        for _ in tasks[1:]:
            self.submit(one)
        try:
            # Whoever waits does what nobody has begun with, and so waits only for what is under way: or requests that
            # wait for others of their own could take all the places that these need.
            while left:
                one()
            wait()
        except BaseException:  # Ctrl-C
            left.clear()
            wait()  # the others write to memory that is the caller's
            raise

    # -- inside ------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._threads += 1
        threading.Thread(target=self._work, name="holdshort-fetch", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._news:
                while not self._waiting or self._in_flight >= self.pace.limit:
                    self._idle += 1
                    woken = self._news.wait(_IDLE_S)
                    self._idle -= 1
                    if not woken and not self._waiting:
                        self._threads -= 1
                        return
                task = heapq.heappop(self._waiting)
                self._in_flight += 1
            got = task.run()
            del task  # or it would keep the reader's memory until the next one comes
            with self._news:
                self._in_flight -= 1
                if got or not self._in_flight:  # what was at hand says nothing about the store
                    self.pace.ended(got, time.monotonic(), in_flight=self._in_flight, waiting=len(self._waiting))
                if self._waiting:
                    if self._idle:
                        self._news.notify()
                    if self._threads < self.pace.limit:
                        self._start()
