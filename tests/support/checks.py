"""What must be true of a job at its end, whatever happened on the way."""

from __future__ import annotations

from holdshort.jobs import Job, Status


def rows(count: int) -> list[dict[str, str]]:
    """Rows whose answers are known."""
    return [{"custom_id": f"row-{number:06d}", "input": f"text {number}"} for number in range(count)]


def assert_exactly_once(job: Job, expected: int, status: Status) -> None:
    """Every row has one result, ok and right, in input order; and the counts say the same."""
    assert status.state == "completed", status
    assert status.counts.as_dict() == {"ok": expected, "error": 0, "expired": 0, "cancelled": 0}
    found = [(row.custom_id, row.body) for row in job.results(follow=False)]
    assert found == [(row["custom_id"], {"echo": row["input"]}) for row in rows(expected)]
