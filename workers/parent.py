"""Noticing that the process that started this one is gone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable


def when_parent_leaves(act: Callable[[], None]) -> None:
    """Call this, in a thread, once standard input closes: whoever started this process has let go of it, or died."""

    def wait() -> None:
        while os.read(0, 4096):
            continue
        act()

    threading.Thread(target=wait, name="parent", daemon=True).start()


def leave_with_parent() -> None:
    """End this process as by SIGTERM once its standard input closes."""
    when_parent_leaves(lambda: os.kill(os.getpid(), signal.SIGTERM))
