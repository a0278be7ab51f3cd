"""What a row is, and how long things may be."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Source: TypeAlias = str | os.PathLike[str] | Iterable[str | Mapping[str, Any]]
"""Rows (a list or any iterable), a file, a folder, a glob, or an fsspec URL."""


@dataclass(frozen=True, slots=True)
class InputRow:
    """One validated row.

    Attributes:
        custom_id: the submitter's name for the row, or one made from its place.
        line: one JSON object without a newline: {"custom_id": …, "url": …?, "method": …?, "body": {…}}.
        where: where it was read, as a message names it: "input.jsonl, line 12", "docs/a.txt", "row 3".
        moves_bytes: how much its work moves, where that counts for how many rows make a shard.
    """

    custom_id: str
    line: bytes
    where: str
    moves_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one row, one shard and one refusal may hold.

    Attributes:
        row_bytes: the longest single row, as a line of JSON.
        shard_bytes: a shard never gets a further row that would bring its lines above this.
        problems: how many problems are collected before reading stops.
        custom_id_chars: the longest custom_id.
    """

    row_bytes: int = 4 * 2**20
    shard_bytes: int = 8 * 2**20
    problems: int = 20
    custom_id_chars: int = 512


DEFAULT_LIMITS = Limits()
