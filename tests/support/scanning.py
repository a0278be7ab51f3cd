"""What child processes do in tests of scanning; they find it by this name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holdshort.profiles.sizing import DataSize
from holdshort.storage.scanning import scan
from holdshort.storage.settings import ScanLimits


def scan_to_the_end(url: str, options: dict[str, Any], folder: Path, queue: Any = None) -> DataSize:
    """Scan in small steps, as many processes in turn would, and put what was found into the queue."""
    while True:
        found = scan(url, storage_options=options, folder=folder, limits=ScanLimits(most_objects=10))
        if found.is_whole:
            if queue is not None:
                queue.put((found.objects, found.bytes))
            return found
