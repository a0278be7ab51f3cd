"""A progress bar for a job, on standard error."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from .status import Status

if TYPE_CHECKING:
    from .job import Job

_LINE_EVERY_S = 5.0


def wait_with_progress(job: Job, *, timeout: float | None = None) -> Status:
    """Wait for a job, showing rows done, rate, time left and what it waits for."""
    if not sys.stderr.isatty():
        return _with_lines(job, timeout)
    return _with_bar(job, timeout)


def _with_bar(job: Job, timeout: float | None) -> Status:
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
        task = bar.add_task(job.id, total=job.record.rows, note="")

        def show(status: Status) -> None:
            note = "" if status.state in ("running", "completed") else f"[yellow]{status.state}[/]"
            if status.counts.error:
                note += f" [red]{status.counts.error} failed[/]"
            bar.update(task, completed=status.done, note=note)

        return job.poll(show, timeout=timeout)


def _with_lines(job: Job, timeout: float | None) -> Status:
    shown = (-1, 0.0)

    def show(status: Status) -> None:
        nonlocal shown
        now = time.monotonic()
        if status.has_ended or (status.done != shown[0] and now - shown[1] >= _LINE_EVERY_S):
            shown = (status.done, now)
            sys.stderr.write(f"{job.id}: {status.state}, {status.done} of {status.rows} rows\n")

    return job.poll(show, timeout=timeout)
