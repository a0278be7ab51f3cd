"""What commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text


def print_json(value: Any) -> None:
    """A value as indented JSON."""
    import orjson

    sys.stdout.write(
        orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS, default=str).decode() + "\n"
    )


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """A table, or a sentence when there is nothing to show."""
    found = list(rows)
    if not found:
        note(empty)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    # Into a pipe, as wide as it needs to be: nothing may be cut off there.
    console = Console(width=None if sys.stdout.isatty() else 400)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in found:
        table.add_row(*cells(row))
    console.print(table)


def cells(row: Iterable[str]) -> list[Text]:
    """A row of a table as it is: rich would take "[extra]" for markup, and show nothing of it."""
    from rich.text import Text

    return [Text(cell) for cell in row]


def say(text: str) -> None:
    """A line on standard output, there at once, also in a pipe."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """A line on standard error."""
    sys.stderr.write(text + "\n")


def ago(then: float) -> str:
    """How long ago a time (seconds since the epoch) was."""
    return span(max(0.0, time.time() - then))


def span(seconds: float) -> str:
    """A duration for people: 42s, 7m, 3.2h, 5.1d."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size * 1.5:
            return f"{seconds / size:.1f}{unit}"
    return f"{seconds:.0f}s"


@contextmanager
def bytes_bar(what: str, *, quiet: bool = False) -> Generator[Callable[[int, int], None]]:
    """Progress in bytes on standard error, where that is a terminal; told how many of how many."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    bars = Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
        console=console, disable=quiet or not console.is_terminal, transient=True,
    )  # fmt: skip
    with bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def counting(*, quiet: bool = False) -> Generator[Callable[[int, int], None]]:
    """Objects and bytes counted so far, on standard error, where that is a terminal."""
    from rich.console import Console

    from ..profiles.sizing import size

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda objects, size_bytes: None
        return
    with console.status("Counting …") as status:
        yield lambda objects, size_bytes: status.update(f"Counting … {objects:,} objects, {size(size_bytes)}")


def start_logging(*, verbose: bool) -> None:
    """Log to standard error, with a time, for long-running commands."""
    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(
        level=level,
        format="%(asctime)s %(levelname).1s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    for noisy in ("httpx", "httpcore", "watchfiles", "celery", "kombu", "amqp", "redis", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def no_traceback() -> bool:
    """Whether errors of ours are shown as a message only."""
    return not os.environ.get("HOLDSHORT_TRACEBACK")
