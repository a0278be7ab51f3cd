"""How long to wait between two looks at a job."""

from __future__ import annotations

from collections.abc import Iterator

_FIRST_S, _MOST_S = 0.01, 0.5


def pauses() -> Iterator[float]:
    """Seconds, without end: short at first, since short jobs end soon."""
    pause = _FIRST_S
    while True:
        yield pause
        pause = min(_MOST_S, pause * 1.5)
