"""A job's progress on standard error: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from .status import Status

_LINE_EVERY_S = 5.0
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


@contextmanager
def shown(job_id: str, rows: int, size_bytes: int | None = None) -> Generator[Callable[[Status], None]]:
    """What to call with each status: shows what is done, rate, time left and what the job waits for.

    Args:
        size_bytes: what a checkpoint job moves; then the bar is in bytes.
    """
    if not sys.stderr.isatty():
        yield _lines(job_id)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    amount = (DownloadColumn(binary_units=True), TransferSpeedColumn()) if size_bytes else (
        MofNCompleteColumn(), TextColumn("rows")
    )  # fmt: skip
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        *amount,
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(job_id, total=size_bytes or rows, note="")

        def show(status: Status) -> None:
            note = "" if status.state in ("running", "completed") else f"[yellow]{status.state}[/]"
            if status.counts.error:
                note += f" [red]{status.counts.error} failed[/]"
            bar.update(task, completed=(status.bytes_done if size_bytes else status.done) or 0, note=note)

        yield show


def _lines(job_id: str) -> Callable[[Status], None]:
    last = (-1, 0.0)

    def show(status: Status) -> None:
        nonlocal last
        now = time.monotonic()
        if status.has_ended or (status.done != last[0] and now - last[1] >= _LINE_EVERY_S):
            last = (status.done, now)
            sys.stderr.write(f"{job_id}: {status.state}, {done_of(status)}\n")

    return show


def done_of(status: Status) -> str:
    """How much of a job is done, in words: bytes of a checkpoint job that moves any, else rows."""
    if status.bytes_total:
        return f"{_amount(status.bytes_done or 0)} of {_amount(status.bytes_total)}"
    return f"{status.done} of {status.rows} rows"


def _amount(size_bytes: int) -> str:
    size, unit = float(size_bytes), 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else f"{size_bytes} bytes"
