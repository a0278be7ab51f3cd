"""Since when what this process and its parents know counts."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path


def family_began_s() -> float:
    """When this process began, or the one whose worker it is (multiprocessing), in seconds since the epoch."""
    parent = multiprocessing.parent_process()
    pid = os.getpid() if parent is None or parent.pid is None else parent.pid
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:  # the parent is gone
        return time.time()
    since_boot_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot_s
