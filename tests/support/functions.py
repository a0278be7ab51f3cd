"""Functions that test pools run, with effects that tests can count.

Each answered row is noted as one line in the file ran.log of the folder $TEST_FOLDER: such appends are atomic.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from holdshort.jobs.rows import Row


def echo(rows: list[Row]) -> list[dict[str, Any]]:
    """Answers with the input, 1 ms a row."""
    time.sleep(0.001 * len(rows))
    _note(rows)
    return [{"echo": row.body["input"]} for row in rows]


def slow_echo(rows: list[Row]) -> list[dict[str, Any]]:
    """Answers with the input, 10 ms a row."""
    time.sleep(0.01 * len(rows))
    _note(rows)
    return [{"echo": row.body["input"]} for row in rows]


def instant(rows: list[Row]) -> list[dict[str, Any]]:
    """Answers at once."""
    return [{"echo": row.body["input"]} for row in rows]


def until_released(rows: list[Row]) -> list[dict[str, Any]]:
    """Answers once the file `released` is there; nothing else ends it."""
    _note(rows)
    while not (_folder() / "released").exists():
        time.sleep(0.05)
    return [{"echo": row.body["input"]} for row in rows]


def deadly(rows: list[Row]) -> list[dict[str, Any]]:
    """Kills the process on a row that says so, as the out-of-memory killer would."""
    for row in rows:
        if row.body["input"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
    return [{"echo": row.body["input"]} for row in rows]


def picky(rows: list[Row]) -> list[dict[str, Any]]:
    """Fails for good on "bad", and at the first try on "flaky"."""
    for row in rows:
        if row.body["input"] == "bad":
            raise ValueError("cannot digest this row")
        if row.body["input"] == "flaky" and not _seen(row):
            raise ConnectionError("try again")
    return [{"echo": row.body["input"]} for row in rows]


def unreachable(rows: list[Row]) -> list[dict[str, Any]]:
    """Never works, but might."""
    _note(rows)
    raise ConnectionError("nobody there")


def _seen(row: Row) -> bool:
    marker = _folder() / f"seen-{row.custom_id}"
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return True
    return False


def _note(rows: list[Row]) -> None:
    with (_folder() / "ran.log").open("a") as file:
        file.write("".join(f"{row.custom_id} {os.getpid()}\n" for row in rows))


def _folder() -> Path:
    return Path(os.environ["TEST_FOLDER"])
