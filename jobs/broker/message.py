"""The one message there is: "advance stripe k of job J, turn t"."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..ledger.turns import Progress, parse_hint, progress_hint

TASK = "holdshort.advance"


@dataclass(frozen=True, slots=True)
class Message:
    """Asks a worker of a pool to take a turn.

    Attributes:
        priority: 0 to 9, 9 the most urgent, on every broker.
        progress: what the publisher knows of the stripe; only saves looking.
    """

    pool: str
    job: str
    stripe: int
    turn: int
    priority: int
    progress: Progress = field(default_factory=Progress)

    @property
    def name(self) -> str:
        """What logs and the broker's own tools show."""
        return f"{self.job}/{self.stripe}.{self.turn}"

    def arguments(self) -> list[Any]:
        """The task's arguments."""
        return [self.pool, self.job, self.stripe, self.turn, self.priority, progress_hint(self.progress)]

    @classmethod
    def parse(cls, arguments: list[Any]) -> Message:
        """The message of these arguments. Raises ValueError for any other form."""
        match arguments:
            case [str(pool), str(job), int(stripe), int(turn), int(priority), *rest]:
                return cls(pool, job, stripe, turn, priority, parse_hint(rest[0] if rest else None))
            case _:
                raise ValueError(f"not a message of Holdshort: {arguments!r:.200}")
