"""The accepted job, as `job.json` holds it, and the counts that end it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, cast

import orjson

from ..storage.errors import Corrupt
from .rows import RowOutcome

JobKind = Literal["batch", "checkpoint"]
Ended = Literal["completed", "cancelled", "expired"]
JobOutcome = Literal["completed", "failed", "cancelled", "expired"]


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows by how they ended; adding them up gives the rows accounted for."""

    ok: int = 0
    error: int = 0
    expired: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        return self.ok + self.error + self.expired + self.cancelled

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.ok + other.ok,
            self.error + other.error,
            self.expired + other.expired,
            self.cancelled + other.cancelled,
        )

    @classmethod
    def of(cls, outcomes: Iterable[RowOutcome]) -> Counts:
        tally = dict.fromkeys((f.name for f in fields(cls)), 0)
        for outcome in outcomes:
            tally[outcome] += 1
        return cls(**tally)

    @classmethod
    def all(cls, outcome: RowOutcome, rows: int) -> Counts:
        """`rows` rows that all ended the same way."""
        return cls(**{outcome: rows})

    def as_dict(self) -> dict[str, int]:
        return {"ok": self.ok, "error": self.error, "expired": self.expired, "cancelled": self.cancelled}


@dataclass(frozen=True, slots=True)
class ShardSizes:
    """Rows of each shard, run-length coded, since nearly all are equal."""

    runs: tuple[tuple[int, int], ...]
    """(rows, how many shards in a row have that many)"""

    @classmethod
    def of(cls, sizes: Iterable[int]) -> ShardSizes:
        runs: list[tuple[int, int]] = []
        for rows in sizes:
            if runs and runs[-1][0] == rows:
                runs[-1] = (rows, runs[-1][1] + 1)
            else:
                runs.append((rows, 1))
        return cls(tuple(runs))

    @property
    def shards(self) -> int:
        return sum(count for _, count in self.runs)

    @property
    def rows(self) -> int:
        return sum(rows * count for rows, count in self.runs)

    def __iter__(self) -> Iterator[int]:
        for rows, count in self.runs:
            for _ in range(count):
                yield rows


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as it was accepted; never changed afterwards.

    Attributes:
        priority: base priority, 0 to 9.
        accepted_at, deadline_at: seconds since the epoch.
        stripes: how many messages advance it.
        upload: the folder below `input/` that belongs to it.
        inline: a small input itself, packed and in base64; then there is no such folder.
        shard_bytes: of a checkpoint job, the bytes that each shard moves (run-length coded, as sizes are).
        digest: of the input and of all that shapes the results; tells the same job from another one.
        spec: as submitted, without the input.
    """

    id: str
    kind: JobKind
    pool: str
    priority: int
    accepted_at: float
    deadline_at: float | None
    sizes: ShardSizes
    stripes: int
    upload: str
    digest: str
    spec: dict[str, Any]
    inline: str = ""
    layout: int = 1
    shard_bytes: ShardSizes | None = None
    _row_starts: list[int] = field(default_factory=list[int], compare=False, repr=False)

    @property
    def rows(self) -> int:
        return self.sizes.rows

    @property
    def shards(self) -> int:
        return self.sizes.shards

    @property
    def max_attempts(self) -> int:
        return cast("int", self.spec.get("max_attempts", 3))

    @property
    def params(self) -> dict[str, Any]:
        """Defaults for the body of every row."""
        if self.kind == "checkpoint":
            spec = self.spec
            found = {"job": self.id, "action": self.action}
            own = {"step": spec["step"], "attempt": self.id} if self.action == "save" else {}
            known = ("name", "source", "to", "keep_last", "keep_every")
            return found | own | {name: spec[name] for name in known if spec.get(name) is not None}
        return cast("dict[str, Any]", self.spec.get("params") or {})

    @property
    def action(self) -> str:
        """What a checkpoint job does."""
        return cast("str", self.spec.get("action", "save"))

    @property
    def size_bytes(self) -> int | None:
        """All bytes that a checkpoint job moves; None for other jobs."""
        return None if self.shard_bytes is None else self.shard_bytes.rows

    def bytes_of(self, shards: Iterable[int]) -> int:
        """Bytes of these shards."""
        if self.shard_bytes is None:
            return 0  # of other jobs nobody counts
        each = list(self.shard_bytes)
        return sum(each[shard] for shard in shards)

    @property
    def webhook(self) -> str | None:
        return cast("str | None", self.spec.get("webhook"))

    def stripe_shards(self, stripe: int) -> range:
        """Indexes of a stripe's shards, in the order in which they are done."""
        return range(stripe, self.shards, self.stripes)

    def first_row(self, shard: int) -> int:
        """Index in the job of a shard's first row."""
        return self._starts()[shard]

    def shard_size(self, shard: int) -> int:
        """Rows of a shard."""
        starts = self._starts()
        return starts[shard + 1] - starts[shard]

    def _starts(self) -> list[int]:
        if not self._row_starts:
            total = 0
            starts = [0]
            for rows in self.sizes:
                total += rows
                starts.append(total)
            self._row_starts.extend(starts)
        return self._row_starts

    def encode(self) -> bytes:
        data = {f.name: getattr(self, f.name) for f in fields(self) if not f.name.startswith("_")}
        data["sizes"] = self.sizes.runs
        # Left out where there is none, so that earlier versions can read the jobs that they know.
        del data["shard_bytes"]
        if self.shard_bytes is not None:
            data["shard_bytes"] = self.shard_bytes.runs
        return orjson.dumps(data, option=orjson.OPT_INDENT_2)

    @classmethod
    def decode(cls, data: bytes) -> JobRecord:
        try:
            found: dict[str, Any] = orjson.loads(data)
            for name in ("sizes", "shard_bytes"):
                if name in found:
                    found[name] = ShardSizes(tuple((rows, count) for rows, count in found[name]))
            return cls(**found)
        except (ValueError, TypeError, KeyError) as error:
            raise Corrupt(f"a job.json can't be read ({error}); was it written by a newer version?") from error


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended; written once.

    Attributes:
        positions: for each stripe how many of its shards count; rows beyond them ended as `ended` says.
        ended: how each stripe ended.
        reason: why it did not complete; "" when it did.
    """

    state: JobOutcome
    counts: Counts
    ended_at: float
    positions: tuple[int, ...]
    ended: tuple[Ended, ...]
    reason: str = ""

    def encode(self) -> bytes:
        return orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2)

    @classmethod
    def decode(cls, data: bytes) -> Outcome:
        try:
            found: dict[str, Any] = orjson.loads(data)
            return cls(
                state=found["state"],
                counts=Counts(**found["counts"]),
                ended_at=found["ended_at"],
                positions=tuple(found["positions"]),
                ended=tuple(found["ended"]),
                reason=found["reason"],
            )
        except (ValueError, TypeError, KeyError) as error:
            raise Corrupt(f"an outcome can't be read: {error!r}") from error
