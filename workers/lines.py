"""Result lines in the shape of OpenAI batch output: `id, custom_id, response, error`.

A line depends on the job, the row and the answer alone, so it is the same whoever writes it.
"""

from __future__ import annotations

from typing import Any

import orjson

from ..jobs.rows import Row, RowError


def ok_line(job_id: str, row: Row, body: dict[str, Any]) -> bytes | RowError:
    """The line of an answered row; a RowError if the body is no JSON."""
    identifier = f"batch_req_{job_id}_{row.index}"
    try:
        return orjson.dumps(
            {
                "id": identifier,
                "custom_id": row.custom_id,
                "response": {"status_code": 200, "request_id": identifier, "body": body},
                "error": None,
            },
            option=orjson.OPT_SERIALIZE_NUMPY,
        )
    except (TypeError, ValueError) as error:
        return RowError("bad_result", f"the engine's answer is no JSON: {error}")
