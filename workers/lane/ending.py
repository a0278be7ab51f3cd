"""What is to be done when a process ends normally, a forked one too."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable

_AFTER_ITS_CHILDREN = -100


def at_end(act: Callable[[], None]) -> None:
    """Call `act` when this process ends normally: what was registered later comes first. It may be called twice.

    A forked child has to register for itself.
    """
    atexit.register(act)
    # A child that multiprocessing has forked ends without the interpreter's own exit; it has this module loaded.
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, act, exitpriority=_AFTER_ITS_CHILDREN)
