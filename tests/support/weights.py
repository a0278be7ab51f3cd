"""Weights for tests, written byte by byte as the format says, and what child processes do with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from holdshort.storage import load_safetensors

Tensor = tuple[str, Sequence[int], bytes]
"""Type, shape, bytes."""


def written(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, align: int = 8) -> bytes:
    """A safetensors file."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    at = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    return framed(json.dumps(header).encode(), align=align) + b"".join(data for _, _, data in tensors.values())


def framed(header: bytes, *, align: int = 1) -> bytes:
    """A header with its length in front."""
    header += b" " * (-len(header) % align)
    return len(header).to_bytes(8, "little") + header


def digest_of(arrays: Mapping[str, Any]) -> str:
    """What the bytes of all arrays of NumPy sum up to."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(name.encode())
        found.update(arrays[name].tobytes())
    return found.hexdigest()


def replica(options: dict[str, Any], url: str, queue: Any, begin: Any) -> None:
    """Load weights once `begin` lets; put into the queue what they sum up to."""
    begin.wait()
    queue.put(digest_of(load_safetensors(url, s3=options, serving={"part_bytes": 2**20})))
