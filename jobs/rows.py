"""Rows of a batch job, and their result lines in the shape of OpenAI batch output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

RowOutcome = Literal["ok", "error", "expired", "cancelled"]
"""How a row ended. Every accepted row ends in exactly one of these."""


@dataclass(frozen=True, slots=True)
class Row:
    """One request of a batch job, as an engine sees it.

    Attributes:
        index: place in the job's input, from 0.
        custom_id: the submitter's name for the row, unique in the job.
        body: the request, with the job's `params` already merged in (the row's own keys win).
        url: the OpenAI endpoint that the row names, e.g. "/v1/embeddings"; "" when it named none.
    """

    index: int
    custom_id: str
    body: dict[str, Any]
    url: str = ""


@dataclass(frozen=True, slots=True)
class RowError:
    """Why a row could not be answered.

    Attributes:
        code: a short stable name, e.g. "too_long", "engine_error", "worker_lost".
        message: what was wrong and what to do.
        retryable: whether the same row may succeed later; then it is tried again, with backoff, up to the
            job's `max_attempts`.
        retry_after_s: the earliest time for that, where the cause named one.
    """

    code: str
    message: str
    retryable: bool = False
    retry_after_s: float | None = None


NOT_RUN: Mapping[str, RowError] = {
    "cancelled": RowError("batch_cancelled", "the job was cancelled before this row was run"),
    "expired": RowError("batch_expired", "the job's deadline passed before this row was run"),
}
"""The error of a row that was not reached, by how its stripe ended."""


def error_line(job_id: str, index: int, custom_id: str, error: RowError) -> bytes:
    """The line of a row that was not answered."""
    return orjson.dumps(
        {
            "id": f"batch_req_{job_id}_{index}",
            "custom_id": custom_id,
            "response": None,
            "error": {"code": error.code, "message": error.message},
        }
    )
