"""A data set on a store, as people write them for torch; the loader's workers find it by this name."""

from __future__ import annotations

import os
import random
import signal
from typing import Any

from support.caching import opened


def samples(count: int, size: int = 60_000) -> dict[str, bytes]:
    """Different objects by path."""
    rng = random.Random(count)
    return {f"bkt/set/{number:04}.bin": rng.randbytes(size + number) for number in range(count)}


class Samples:
    """Objects by number; each item is (number, its bytes).

    Args:
        killed_at: the process that reads this one is killed in the middle, unless it is the one that made this.
        opens_early: a file is kept open from the beginning, as people do with one large shard.
    """

    def __init__(
        self, options: dict[str, Any], paths: list[str], *, killed_at: int = -1, opens_early: bool = False,
        **values: Any,
    ) -> None:  # fmt: skip
        self.fs = opened(options, **values)
        self.paths = paths
        self._killed_at = killed_at
        self._made_by = os.getpid()
        self._file = self.fs.open(paths[0]) if opens_early else None
        if self._file is not None:
            self._file.read(1)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[int, bytes]:
        if self._file is not None:
            self._file.seek(number * 30_000)  # beyond what came when it was opened
            return number, self._file.read(1000)
        with self.fs.open(self.paths[number]) as file:
            data = file.read(10)
            if number == self._killed_at and os.getpid() != self._made_by:
                os.kill(os.getpid(), signal.SIGKILL)
            return number, data + file.read()
