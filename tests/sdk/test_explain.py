"""`why` names the nearest cause, in one sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdshort.jobs import Status
from holdshort.jobs.explain import Facts, explain
from holdshort.jobs.holds import Hold
from holdshort.jobs.presence import Beat
from holdshort.jobs.record import Counts

STATUS = Status(
    id="job-a", kind="batch", pool="embed", state="queued", priority=4, rows=100, counts=Counts(ok=40), accepted_at=0.0,
    deadline_at=None, ended_at=None, reason="", stripes=1, workers=(), metadata={},
)  # fmt: skip
IDLE = Beat(worker_id="w", pool="embed", host="h", pid=1, engine="e", started_at=0.0, at=100.0)
BUSY = replace(IDLE, job="job-a", rows_per_s=10.0)
ELSEWHERE = replace(IDLE, job="job-b")
HOLD = Hold("load test", "ana", since=0.0, until=160.0)
FACTS = Facts(STATUS, workers=[IDLE], hold=None, ahead=0, depth=1, unpublished=False, now=100.0)


@pytest.mark.parametrize(
    ("facts", "parts"),
    [
        (replace(FACTS, status=replace(STATUS, state="completed")), ["has ended: completed"]),
        (replace(FACTS, status=replace(STATUS, state="cancelled", reason="wrong")), ["has ended: cancelled (wrong)"]),
        (replace(FACTS, status=replace(STATUS, state="cancelling")), ["being cancelled"]),
        (replace(FACTS, status=replace(STATUS, state="paused")), ["paused", "holdshort resume job-a"]),
        (replace(FACTS, hold=HOLD, workers=[BUSY]), ["held by ana for another 60 s", "load test"]),
        (replace(FACTS, hold=replace(HOLD, until=None)), ["until it is cleared"]),
        (replace(FACTS, workers=[BUSY]), ["running on 1 worker;", "about 6 s left"]),
        (replace(FACTS, workers=[BUSY, replace(BUSY, rows_per_s=0.0)]), ["running on 2 workers"]),
        (replace(FACTS, workers=[replace(BUSY, rows_per_s=0.0)]), ["running on 1 worker;"]),
        (replace(FACTS, workers=[]), ["No worker is alive on pool embed", "holdshort worker embed"]),
        (replace(FACTS, depth=None), ["broker does not answer"]),
        (replace(FACTS, unpublished=True), ["not with the broker yet", "holdshort up"]),
        (replace(FACTS, workers=[ELSEWHERE], ahead=3), ["waits for a worker", "job-b", "3 jobs ahead", "priority 4"]),
        (replace(FACTS, workers=[ELSEWHERE], ahead=1), ["1 job ahead"]),
        (replace(FACTS, workers=[ELSEWHERE]), ["its turn comes next"]),
        (replace(FACTS, depth=0), ["holdshort recover"]),
        (FACTS, ["about to run"]),
    ],
)
def test_the_answer_names_the_nearest_cause_and_the_progress(facts: Facts, parts: list[str]) -> None:
    answer = explain(facts)
    for part in [*parts, "40 of 100 rows are done"]:
        assert part in answer
    assert answer.endswith(".")
    assert "\n" not in answer
