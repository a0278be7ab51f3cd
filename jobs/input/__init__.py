"""A job's input: read from wherever it lies, validated to the last row, and packed into shards."""

from __future__ import annotations

from .problems import Problem, RefusedInput
from .reading import read_rows
from .rows import InputRow, Limits, Source
from .shards import ContentDigest, PackedShard, pack, parse, unpack

__all__ = [
    "ContentDigest",
    "InputRow",
    "Limits",
    "PackedShard",
    "Problem",
    "RefusedInput",
    "Source",
    "pack",
    "parse",
    "read_rows",
    "unpack",
]
