"""Small jobs on a ledger, whose results can be told from their rows."""

from __future__ import annotations

from collections.abc import Sequence

from holdshort.jobs.identity import new_id
from holdshort.jobs.ledger import Ledger
from holdshort.jobs.ledger.shards import Summary, compress
from holdshort.jobs.record import Counts, JobRecord, ShardSizes
from holdshort.jobs.rows import Row, RowError, error_line
from holdshort.workers.lines import ok_line


def make_record(
    sizes: Sequence[int],
    *,
    stripes: int = 1,
    job_id: str | None = None,
    pool: str = "embed",
    accepted_at: float = 0.0,
    webhook: str | None = None,
) -> JobRecord:
    """A batch job with shards of these sizes."""
    return JobRecord(
        id=job_id or new_id(),
        kind="batch",
        pool=pool,
        priority=4,
        accepted_at=accepted_at,
        deadline_at=None,
        sizes=ShardSizes.of(sizes),
        stripes=min(stripes, len(sizes)),
        upload="upload",
        digest="sha256:0",
        spec={"webhook": webhook},
    )


def accept(ledger: Ledger, record: JobRecord) -> JobRecord:
    """Store a job's input and accept it."""
    for shard in range(record.shards):
        first = record.first_row(shard)
        rows = range(first, first + record.shard_size(shard))
        lines = [b'{"custom_id":"%s","body":{}}' % custom_id(row).encode() for row in rows]
        ledger.put_input(record.id, record.upload, shard, compress(lines))
    return ledger.accept(record)


def custom_id(row: int) -> str:
    return f"row {row}"


def result_line(record: JobRecord, row: int) -> bytes:
    """The result of a row: an error for every seventh, counted in a way of its own for each job."""
    if (row + sum(record.id.encode())) % 7 == 0:
        return error_line(record.id, row, custom_id(row), RowError("engine_error", "it said no"))
    line = ok_line(record.id, Row(row, custom_id(row), {}), {"row": row})
    assert isinstance(line, bytes)
    return line


def not_run_line(record: JobRecord, row: int, how: str) -> bytes:
    """The line of a row that was cancelled or expired before it ran."""
    return error_line(record.id, row, custom_id(row), RowError(f"batch_{how}", "too late"))


def shard_result(
    record: JobRecord, shard: int, *, ran: int | None = None, how: str = ""
) -> tuple[Summary, list[bytes]]:
    """Summary and lines of a shard of which `ran` rows (all by default) ran, and the others ended as `how`."""
    first, size = record.first_row(shard), record.shard_size(shard)
    ran = size if ran is None else ran
    lines = [result_line(record, row) for row in range(first, first + ran)]
    errors = sum(b'"response":null' in line for line in lines)
    counts = Counts(ok=ran - errors, error=errors)
    if ran < size:
        lines += [not_run_line(record, row, how) for row in range(first + ran, first + size)]
        counts += Counts(**{how: size - ran})
    return Summary(counts, worker="w"), lines
