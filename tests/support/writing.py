"""What child processes do in tests of writing; they find it by this name."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import fsspec


def writes_right(fs: Any, path: str, content: bytes, queue: Any) -> None:
    """Write an object piece by piece, and put into the queue whether it is there."""
    with fs.open(path, "wb") as file:
        for start in range(0, len(content), 700_001):
            file.write(content[start : start + 700_001])
    queue.put(fs.cat_file(path) == content)


def leaves_what_is_not_its_own(file: Any, queue: Any) -> None:
    """A forked child has its parent's open file, which is not its own; put into the queue what it is told."""
    try:
        file.write(b"of the child")
    except ValueError as error:
        queue.put(str(error))
    file.discard()
    del file


def is_killed(url: str, options: dict[str, Any], size: int, when: str) -> None:
    """End by SIGKILL while an object is written ("writing"), or just before it is committed ("finished")."""
    with fsspec.open(url, "wb", **options) as file:
        for _ in range(0, size, 2**20):
            file.write(os.urandom(2**20))
        if when == "finished":
            file._sink.finish()
        os.kill(os.getpid(), signal.SIGKILL)


def leaves_it_open(url: str, options: dict[str, Any]) -> None:
    """End without closing what is written."""
    file: Any = fsspec.open(url, "wb", **options).open()
    file.write(os.urandom(12 * 2**20))
    globals()["kept"] = file  # so that only the end of the process ends it
    sys.exit(0)
