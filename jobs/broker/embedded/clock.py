"""The clocks of the broker: one for leases, which nobody can set, and one for dates."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """Time as the broker reads it; tests bring their own."""

    @property
    def boot(self) -> str:
        """Names the current boot of the host; empty where the system does not tell."""
        ...

    def now(self) -> float:
        """Seconds since some moment of this boot, the same for every process of the host."""
        ...

    def wall(self) -> float:
        """Seconds since 1970. Message and queue expiry use it, because they outlive a boot."""
        ...


class SystemClock:
    """The host's clocks.

    Leases run on CLOCK_MONOTONIC: setting the date does not touch it, and it stands still while the
    host sleeps, when nobody could renew either.
    """

    def __init__(self) -> None:
        self._boot = read_boot_id()

    @property
    def boot(self) -> str:
        return self._boot

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


def read_boot_id(path: Path = _BOOT_ID) -> str:
    """The kernel's name for this boot, or "" where there is none."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
