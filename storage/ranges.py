"""A range of a file, read so that it can be stopped in the middle."""

from __future__ import annotations

import os
import time
from typing import Any, cast

from .flow import Flow


def read_file(path: str, start: int, end: int, flow: Flow) -> bytes:
    """Bytes from `start` to before `end` of a file of this machine; fewer where it ends before.

    Raises FileNotFoundError, Interrupted.
    """
    data = bytearray(end - start)
    view, got = memoryview(data), 0
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while got < len(data):
            flow.check()
            begin = time.perf_counter()
            more = os.preadv(descriptor, [view[got : got + flow.chunk_bytes]], start + got)
            if not more:
                break
            flow.moved(more, time.perf_counter() - begin)
            got += more
    finally:
        os.close(descriptor)
    return bytes(view[:got])


def read_object(fs: Any, path: str, start: int, end: int, flow: Flow) -> bytes:
    """The same of a file behind fsspec. Raises whatever the file system does."""
    flow.check()
    if _is_local(fs):
        return read_file(path, start, end, flow)
    if end <= start:
        return b""  # of which S3 has no range
    begin = time.perf_counter()
    if getattr(fs, "async_impl", False) and not fs.asynchronous:
        data = cast("bytes", flow.run(fs.loop, fs._cat_file(path, start=start, end=end)))
    else:
        data = cast("bytes", fs.cat_file(path, start=start, end=end))
    flow.moved(len(data), time.perf_counter() - begin)
    return data


def _is_local(fs: Any) -> bool:
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(fs, LocalFileSystem)
