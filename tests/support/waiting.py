"""Waiting for a condition instead of for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def eventually(condition: Callable[[], _T], *, timeout: float = 20.0, every: float = 0.02, what: str = "") -> _T:
    """The first truthy answer of `condition`. Raises AssertionError when none came within `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() >= end:
            raise AssertionError(f"not within {timeout:g} s: {what or condition}")
        time.sleep(every)
