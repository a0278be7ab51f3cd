"""A worker process as `holdshort worker` runs it, with an observer that kills it at a named point.

python -m support.worker POOL [POINT] [NTH]
"""

from __future__ import annotations

import os
import signal
import sys

from holdshort.cli.output import start_logging
from holdshort.jobs.settings import Settings
from holdshort.workers.observer import Observer, Point
from holdshort.workers.parent import leave_with_parent
from holdshort.workers.serve import serve


class KillAt(Observer):
    """Kills its process the nth time that a point is reached."""

    def __init__(self, point: str, nth: int) -> None:
        self._point = point
        self._left = nth

    def at(self, point: Point, *, job: str, stripe: int, shard: int | None) -> None:
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    pool, point, nth = sys.argv[1], sys.argv[2], int(sys.argv[3])
    start_logging(verbose=False)
    leave_with_parent()
    sys.exit(serve(Settings.load(), pool, observer=KillAt(point, nth) if point else None))
