"""What child processes do in tests of the cache; they find it by this name."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from holdshort.storage.filesystem import ProfiledFileSystem, ServingFileSystem, TrainingFileSystem


def opened(options: dict[str, Any], **values: Any) -> ProfiledFileSystem:
    """A file system with the training profile, new to this process."""
    values = {"part_bytes": 2**20, **values}
    return TrainingFileSystem(target_protocol="s3", target_options=options, skip_instance_cache=True, **values)


def digest_of(options: dict[str, Any], path: str, queue: Any, begin: Any = None) -> None:
    """Put into the queue what an object's bytes sum up to, read once `begin` lets."""
    fs = ServingFileSystem(target_protocol="s3", target_options=options, skip_instance_cache=True, part_bytes=2**20)
    if begin is not None:
        begin.wait()
    found = hashlib.sha256()
    with fs.open(path) as file:
        while data := file.read(300_000):
            found.update(data)
    queue.put(found.hexdigest())


def read_and_vanish(options: dict[str, Any], path: str) -> None:
    """Read an object in order, and end in the moment in which its last byte was had."""
    with opened(options, part_bytes=2**19).open(path) as file:
        while file.read(300_000):
            pass
        os._exit(0)


def read_for_ever(options: dict[str, Any], path: str, cache_bytes: int) -> None:
    """Read an object again and again, each time as if it were new."""
    fs = opened(options, freshness_s=0.0, cache_bytes=cache_bytes)
    while True:
        fs.cat_file(path)
