"""What is wrong with an input: each problem by itself, and the refusal that carries them all."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...storage.errors import RefusedJob

_LINE = re.compile(r", line (\d+)\Z")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that must be changed before the input is accepted.

    Attributes:
        where: the file, line or row: "input.jsonl, line 12".
        code: a short stable name, such as "bad_json"; docs/reference/input.md lists them all.
        message: what is wrong, as a sentence that follows `where` and a colon.
        cure: what to do about it.
    """

    where: str
    code: str
    message: str
    cure: str = ""

    @property
    def line(self) -> int | None:
        """The line of the file, from 1; None where the problem is not on a line."""
        match = _LINE.search(self.where)
        return int(match[1]) if match else None

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" + (f"\n{self.cure}" if self.cure else "")


class RefusedInput(RefusedJob):
    """Raised when a job's input cannot be accepted; nothing of it was.

    Attributes:
        problems: what was found, at least one.
        complete: whether the whole input was read, so that there are no problems beyond these.
    """

    def __init__(self, problems: tuple[Problem, ...], complete: bool = True) -> None:
        super().__init__(problems, complete)
        self.problems = problems
        self.complete = complete

    def __str__(self) -> str:
        text = str(self.problems[0])
        text += " " if self.problems[0].cure else "\n"
        more = len(self.problems) - 1 if self.complete else len(self.problems)
        if more:
            least = "" if self.complete else "at least "
            text += f"And {least}{more} more problem{'s' if more > 1 else ''}. "
        return text + "Nothing was submitted."


class UnusableError(Exception):
    """Raised inside this package for a row, a file or a source that is left out for a problem."""

    def __init__(self, where: str, code: str, message: str, cure: str = "") -> None:
        super().__init__(message)
        self.problem = Problem(where, code, message, cure)


class Findings:
    """Problems as they are found, up to a limit.

    Args:
        limit: at this many, reading has told enough and ends.
    """

    def __init__(self, limit: int) -> None:
        self._limit = max(limit, 1)
        self._problems: list[Problem] = []
        self._complete = True

    def __bool__(self) -> bool:
        return bool(self._problems)

    def add(self, problem: Problem) -> None:
        """Note a problem. Raises RefusedInput when it is one more than the limit allows."""
        if len(self._problems) >= self._limit:
            raise RefusedInput(tuple(self._problems), complete=False)
        self._problems.append(problem)

    def take(self, refused: RefusedInput) -> None:
        """Put the problems of an earlier step before our own."""
        self._problems[:0] = refused.problems
        self._complete = self._complete and refused.complete

    def raise_if_any(self) -> None:
        """Raise RefusedInput with what was found; return when that is nothing."""
        if self._problems:
            shown = tuple(self._problems[: self._limit])
            raise RefusedInput(shown, complete=self._complete and len(shown) == len(self._problems))
