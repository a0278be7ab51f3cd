"""What child processes do in tests of reading; they find it by this name."""

from __future__ import annotations

from typing import Any


def reads_right(fs: Any, path: str, content: bytes, queue: Any) -> None:
    """Put into the queue whether an object is read right, as a file and as a whole."""
    middle = len(content) // 3
    with fs.open(path) as file:
        file.seek(middle)
        queue.put(file.read(middle) == content[middle : 2 * middle] and fs.cat_file(path) == content)
