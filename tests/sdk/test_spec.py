"""What a job may be is checked before anything is read."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from holdshort.jobs import BatchInferenceJob, CheckpointJob
from holdshort.jobs.spec import duration_s


def _job(**given: Any) -> BatchInferenceJob:
    return BatchInferenceJob(**{"pool": "embed", "input": ["a"], **given})


@given(st.integers(0, 3000), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_a_duration_means_the_sum_of_its_parts(days: int, hours: int, minutes: int, seconds: int) -> None:
    wanted = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()
    assert duration_s(f"{days}d{hours}h{minutes}m{seconds}s") == wanted
    assert duration_s(f" {wanted:.0f} ") == wanted
    parts = {"d": days, "h": hours, "m": minutes, "s": seconds}
    short = "".join(f"{number}{unit}" for unit, number in parts.items() if number)
    assert duration_s(short or "0s") == wanted


@given(st.floats(0, 1e6))
def test_a_number_of_seconds_is_a_duration(seconds: float) -> None:
    assert duration_s(str(seconds)) == seconds
    assert _job(deadline=str(seconds)).deadline_at(1000.0) == 1000.0 + seconds


@given(st.text(max_size=20))
def test_a_text_is_a_usable_duration_or_refused(text: str) -> None:
    with suppress(ValueError):
        assert 0 <= duration_s(text) < 10 * 365 * 86400


@pytest.mark.parametrize(
    "text", ["", "soon", "2 h", "h", "-1h", "-1", "1h2d", "nan", "inf", "1e300", "4000d", "2w", "1.5h"]
)
def test_a_text_that_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        duration_s(text)


@pytest.mark.parametrize(
    ("deadline", "at"),
    [
        (None, None),
        ("2h", 8200.0),
        ("90", 1090.0),
        ("20000101", 1000.0 + 20000101),
        (timedelta(minutes=1), 1060.0),
        (datetime(1970, 1, 1, 1, tzinfo=UTC), 3600.0),
        (datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), 0.0),
        ("1970-01-01T01:00:00Z", 3600.0),
        ("1970-01-01 01:00:00+01:00", 0.0),
    ],
)
def test_a_deadline_is_a_duration_or_a_time_with_a_zone(deadline: Any, at: float | None) -> None:
    assert _job(deadline=deadline).deadline_at(1000.0) == at


@pytest.mark.parametrize("deadline", ["tomorrow", "", "2030-01-01T00:00:00", datetime(2030, 1, 1), "-5m", [1]])  # noqa: DTZ001
def test_a_deadline_of_another_form_is_refused(deadline: Any) -> None:
    with pytest.raises(ValidationError, match="deadline"):
        _job(deadline=deadline)


@given(st.sampled_from(["bulk", "standard", "urgent"]) | st.integers(0, 9))
def test_a_priority_is_a_class_or_a_number_from_0_to_9(priority: Any) -> None:
    classes = {"bulk": 1, "standard": 4, "urgent": 7}
    assert _job(priority=priority).base_priority == classes.get(priority, priority)


def _is_a_digit(text: str) -> bool:
    """However it is written: "-0" is 0."""
    try:
        return float(text) in range(10)
    except ValueError:
        return False


@given((st.integers() | st.floats() | st.text() | st.none()).filter(
    lambda value: value not in ("bulk", "standard", "urgent")
    and not (isinstance(value, int | float) and value in range(10))
    and not (isinstance(value, str) and _is_a_digit(value))
))  # fmt: skip
def test_any_other_priority_is_refused(priority: Any) -> None:
    with pytest.raises(ValidationError, match="priority"):
        _job(priority=priority)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pool", "a b"),
        ("pool", ""),
        ("pool", "../up"),
        ("pool", "x" * 64),
        ("tenant", "a/b"),
        ("metadata", {"k" * 65: "v"}),
        ("metadata", {"k": "v" * 513}),
        ("metadata", {f"{number}": "" for number in range(17)}),
        ("metadata", {"k": 1}),
        ("idempotency_key", ""),
        ("idempotency_key", "x" * 513),
        ("max_parallelism", 0),
        ("max_parallelism", 1025),
        ("max_attempts", 0),
        ("max_attempts", 21),
        ("shard_rows", 0),
        ("shard_rows", 100_001),
        ("input", 5),
        ("input", {"custom_id": "a"}),
        ("input", b"bytes"),
        ("colour", "red"),
    ],
)
def test_what_goes_beyond_a_limit_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=name):
        _job(**{name: value})


def test_what_is_just_within_the_limits_is_taken() -> None:
    _job(
        pool="x" * 63,
        metadata={"k" * 64: "v" * 512} | {f"{number}": "" for number in range(15)},
        idempotency_key="x" * 512,
        max_parallelism=1024,
        max_attempts=20,
        shard_rows=100_000,
    )


def test_a_spec_does_not_change_once_made() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        _job().pool = "other"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(("name", "value"), [("step", -1), ("name", "a/b"), ("name", ""), ("source", "")])
def test_a_checkpoint_job_is_checked_too(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=name):
        CheckpointJob(**{"pool": "embed", "source": "x", "name": "run", "step": 1, name: value})
