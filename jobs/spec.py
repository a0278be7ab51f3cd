"""What can be submitted: the two kinds of job, validated before anything is accepted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from os import PathLike
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

PRIORITY_CLASSES: Mapping[str, int] = {"bulk": 1, "standard": 4, "urgent": 7}
"""Base priority of each class, on the scale 0 to 9 (9 = most urgent) of every broker."""

METADATA_ENTRIES = 16

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


def duration_s(text: str) -> float:
    """Seconds of "90s", "10m", "2h", "1d12h" or a plain number of seconds; ValueError otherwise."""
    text = text.strip()
    try:
        seconds = float(text)
    except ValueError:
        match = _DURATION.fullmatch(text)
        if not match or not any(match.groups()):
            raise ValueError(f"{text!r} is no duration; write it like 90s, 10m, 2h or 1d12h") from None
        days, hours, minutes, rest = (float(part or 0) for part in match.groups())
        seconds = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if not 0 <= seconds < 10 * 365 * 86400:
        raise ValueError(f"{text!r} is no usable duration; use one between 0 and 10 years")
    return seconds


def check_name(name: str) -> str:
    """A name of a pool, tenant or checkpoint; ValueError for what can't be one."""
    if not _NAME.fullmatch(name):
        raise ValueError("must be 1 to 63 letters, digits, - or _, starting with a letter or digit")
    return name


def _check_webhook(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or not url.isprintable() or " " in url:
        raise ValueError("must be an http:// or https:// URL")
    if "@" in urlsplit(url).netloc:
        raise ValueError("must not carry a user name or password; deliveries are signed instead")
    return url


def _absolute(source: str) -> str:
    # Workers run in other folders.
    return source if "://" in source else os.path.abspath(os.path.expanduser(source))


def _without_password(url: str) -> str:
    if "://" in url and "@" in url.partition("://")[2].partition("/")[0]:
        raise ValueError("must not carry a user name or password: a job's spec is kept, and shown. Configure them")
    return url


Name = Annotated[str, AfterValidator(check_name)]


class _Job(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    pool: Name
    priority: Literal["bulk", "standard", "urgent"] | Annotated[int, Field(ge=0, le=9)] = "standard"
    """A class, or 0 to 9 (9 = most urgent). Deadline slack and age raise it."""
    deadline: str | timedelta | datetime | None = None
    """When results are worthless: "2h" after submit, or a time with time zone. Rows left then end as expired."""
    max_parallelism: Annotated[int, Field(ge=1, le=1024)] = 4
    """How many workers may work on the job at once; also how many messages it adds to the queue."""
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 3
    """How often a row is tried when it fails retryably or when its process dies."""
    idempotency_key: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """The same key is the same job: submitting again returns the first one."""
    tenant: Name | None = None
    metadata: Annotated[dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
                        Field(max_length=METADATA_ENTRIES)] = Field(default_factory=dict[str, str])  # fmt: skip
    webhook: Annotated[str, AfterValidator(_check_webhook)] | None = None
    """Told once the job has ended (signed, retried)."""

    @field_validator("deadline")
    @classmethod
    def _check_deadline(cls, value: str | timedelta | datetime | None) -> str | timedelta | datetime | None:
        if isinstance(value, str):
            try:
                duration_s(value)
            except ValueError as no_duration:
                try:
                    value = datetime.fromisoformat(value)
                except ValueError:
                    raise no_duration from None
        if isinstance(value, datetime) and value.tzinfo is None:
            raise ValueError("a deadline that is a time needs a time zone")
        return value

    @property
    def base_priority(self) -> int:
        """Priority before deadline and age raise it, 0 to 9."""
        return self.priority if isinstance(self.priority, int) else PRIORITY_CLASSES[self.priority]

    def deadline_at(self, now: float) -> float | None:
        """The deadline in seconds since the epoch, for a job that is accepted at `now`."""
        match self.deadline:
            case None:
                return None
            case datetime():
                return self.deadline.astimezone(UTC).timestamp()
            case timedelta():
                return now + self.deadline.total_seconds()
            case str():
                return now + duration_s(self.deadline)


class BatchInferenceJob(_Job):
    """Rows to run through a pool's engine.

    Example:
        BatchInferenceJob(pool="embed", input="docs/*.txt", priority="bulk", deadline="2h")
    """

    kind: Literal["batch"] = "batch"
    input: Annotated[str | PathLike[str] | Iterable[Any], Field(exclude=True, repr=False)]
    """Rows (list or any iterable), a file, a folder, a glob, or an fsspec URL; see docs/reference/input.md."""
    params: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Defaults for every row's body; what a row says itself wins."""
    shard_rows: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Rows per shard, the unit of commit."""

    @field_validator("input", mode="plain")
    @classmethod
    def _check_input(cls, value: Any) -> Any:
        # Iterables must come through as they are: pydantic would wrap and copy them.
        if isinstance(value, str | PathLike):
            return value  # pyright: ignore[reportUnknownVariableType]
        if isinstance(value, bytes | Mapping) or not isinstance(value, Iterable):
            raise ValueError("must be rows (a list or any iterable), a path, a glob or a URL")
        return value  # pyright: ignore[reportUnknownVariableType]


class CheckpointJob(_Job):
    """What is to be done with checkpoints: copied into the store or back out of it, verified, pruned, replicated.

    Example:
        CheckpointJob(pool="embed", source="runs/7/step-1000", name="run-7", step=1000)
        CheckpointJob(pool="embed", action="restore", name="run-7", to="/scratch/run-7")
        CheckpointJob(pool="embed", action="restore", name="run-7")  # warms the node's cache
        CheckpointJob(pool="embed", action="verify", name="run-7", step="all")
        CheckpointJob(pool="embed", action="prune", name="run-7", keep_last=3, keep_every=1000)
        CheckpointJob(pool="embed", action="replicate", name="run-7", to="s3://other/holdshort")
    """

    kind: Literal["checkpoint"] = "checkpoint"
    action: Literal["save", "restore", "verify", "prune", "replicate"] = "save"
    name: Name
    """What the checkpoint belongs to, such as a training run."""
    source: Annotated[str, Field(min_length=1), AfterValidator(_absolute), AfterValidator(_without_password)] | None = (
        None
    )
    """save: the folder; a path, which each worker of the pool must see, or an fsspec URL."""
    step: Annotated[int, Field(ge=0)] | Literal["latest", "all"] | None = None
    """save: its number. The others: which one, or "latest" (restore's and replicate's default), or, to verify or
    replicate, "all" (verify's default)."""
    to: Annotated[str, Field(min_length=1), AfterValidator(_without_password)] | None = None
    """restore: a folder, new or empty, which each worker of the pool must see; left out: the cache of the node that
    the pool's workers are on. replicate: another store's URL."""
    keep_last: Annotated[int, Field(ge=1)] | None = None
    """prune: how many of the newest steps stay."""
    keep_every: Annotated[int, Field(ge=1)] | None = None
    """prune: each step that is a multiple of this stays, too."""
    slice_bytes: Annotated[int, Field(ge=8 * 2**20, le=2**40)] = 64 * 2**20
    """How much of a checkpoint is one commit: what a worker that dies has to do again at most."""

    @model_validator(mode="after")
    def _fits_the_action(self) -> Self:
        needed, allowed = _FIELDS_OF[self.action]
        for field in ("source", "step", "to", "keep_last", "keep_every"):
            given = getattr(self, field) is not None
            if given and field not in needed and field not in allowed:
                raise ValueError(f"{field} is nothing that {self.action} takes; leave it out")
            if not given and field in needed:
                raise ValueError(f"{field} is missing: {self.action} needs it")
        if (self.step == "all" and self.action == "restore") or (
            self.action == "save" and not isinstance(self.step, int)
        ):
            raise ValueError(f"step is {self.step!r}; {self.action} wants one step")
        if self.action == "restore" and self.to is not None:
            if "://" in self.to:
                raise ValueError(f"to is {self.to!r}; restore wants a folder on the workers' hosts. See replicate")
            # Frozen, but still being made: workers run in other folders.
            object.__setattr__(self, "to", _absolute(self.to))
        if self.action == "replicate" and self.to is not None:
            object.__setattr__(self, "to", _absolute(self.to))
        return self

    @property
    def shard_rows(self) -> int:
        """Small files that make one commit; they never hold more than `slice_bytes`."""
        return 64

    @property
    def params(self) -> dict[str, Any]:
        return {}


_FIELDS_OF: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "save": (frozenset(("source", "step")), frozenset()),
    "restore": (frozenset(), frozenset(("to", "step"))),
    "verify": (frozenset(), frozenset(("step",))),
    "prune": (frozenset(("keep_last",)), frozenset(("keep_every",))),
    "replicate": (frozenset(("to",)), frozenset(("step",))),
}
"""What each action needs, and what it takes besides."""
