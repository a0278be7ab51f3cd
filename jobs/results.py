"""Results of a job in input order, also while it runs."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import orjson

from .input import parse, unpack
from .ledger import Ledger
from .record import Ended, JobRecord, Outcome
from .rows import NOT_RUN, RowOutcome, error_line

_OUTCOMES: dict[str, RowOutcome] = {"batch_cancelled": "cancelled", "batch_expired": "expired"}


@dataclass(frozen=True, slots=True)
class ResultRow:
    """How one row ended.

    Attributes:
        line: the result as stored, one JSON object in the shape of OpenAI batch output.
    """

    line: bytes

    @property
    def data(self) -> dict[str, Any]:
        """The parsed line: id, custom_id, response, error."""
        return cast("dict[str, Any]", orjson.loads(self.line))

    @property
    def custom_id(self) -> str:
        return cast("str", self.data["custom_id"])

    @property
    def outcome(self) -> RowOutcome:
        error = self.error
        return "ok" if error is None else _OUTCOMES.get(error["code"], "error")

    @property
    def error(self) -> dict[str, str] | None:
        """{"code": …, "message": …}, or None for a row that went well."""
        return cast("dict[str, str] | None", self.data["error"])

    @property
    def body(self) -> dict[str, Any] | None:
        """The engine's answer; None for a row that has none."""
        response = self.data["response"]
        return cast("dict[str, Any]", response["body"]) if response else None

    @property
    def embedding(self) -> list[float]:
        """The (first) embedding of the answer. Raises ValueError for a row without one."""
        body = self.body
        try:
            found = body["data"][0]["embedding"] if body else None
        except (KeyError, IndexError, TypeError):
            found = None
        if found is None:
            raise ValueError(
                f"row {self.custom_id!r} has no embedding: {self.error or 'the engine gave another answer'}"
            )
        if isinstance(found, str):
            raw = base64.b64decode(found)
            return list(struct.unpack(f"<{len(raw) // 4}f", raw))
        return cast("list[float]", found)


def result_shards(
    ledger: Ledger, record: JobRecord, *, wait: Callable[[], Outcome | None] | None, first: int = 0
) -> Iterator[list[bytes]]:
    """Result lines in input order, shard by shard.

    Args:
        wait: called when the next shard is not there yet; waits a moment and returns the outcome if the job
            has ended. None: stop at the first shard that is not there.
        first: the shard to begin with.
    """
    outcome = ledger.outcome(record.id)
    committed = set(ledger.committed(record.id))
    for shard in range(first, record.shards):
        while outcome is None and shard not in committed:
            if wait is None:
                return
            outcome = wait()
            committed = set(ledger.committed(record.id))
        stripe, position = shard % record.stripes, shard // record.stripes
        if outcome is not None and position >= outcome.positions[stripe]:
            yield _not_run(ledger, record, shard, outcome.ended[stripe])
        else:
            yield ledger.shard(record.id, shard)[1]


def _not_run(ledger: Ledger, record: JobRecord, shard: int, ended: Ended) -> list[bytes]:
    first, error = record.first_row(shard), NOT_RUN[ended]
    lines = unpack(ledger.input_shard(record, shard))
    return [error_line(record.id, first + place, parse(line)[0], error) for place, line in enumerate(lines)]
