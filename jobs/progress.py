"""A job's progress on standard error: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from .status import Status

_LINE_EVERY_S = 5.0


@contextmanager
def shown(job_id: str, rows: int) -> Generator[Callable[[Status], None]]:
    """What to call with each status: shows rows done, rate, time left and what the job waits for."""
    if not sys.stderr.isatty():
        yield _lines(job_id)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(job_id, total=rows, note="")

        def show(status: Status) -> None:
            note = "" if status.state in ("running", "completed") else f"[yellow]{status.state}[/]"
            if status.counts.error:
                note += f" [red]{status.counts.error} failed[/]"
            bar.update(task, completed=status.done, note=note)

        yield show


def _lines(job_id: str) -> Callable[[Status], None]:
    last = (-1, 0.0)

    def show(status: Status) -> None:
        nonlocal last
        now = time.monotonic()
        if status.has_ended or (status.done != last[0] and now - last[1] >= _LINE_EVERY_S):
            last = (status.done, now)
            sys.stderr.write(f"{job_id}: {status.state}, {status.done} of {status.rows} rows\n")

    return show
