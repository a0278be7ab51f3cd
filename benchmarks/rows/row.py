"""What a row is made of: arms, their figures, and the aims they are held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import median
from typing import Any

Run = dict[str, float]
"""What was measured of one arm once; "repeat" says in which turn."""
Runs = Mapping[str, Mapping[str, Sequence[Run]]]
"""By group, then arm."""
Given = Mapping[str, Any]
"""What an arm is told."""
Work = Callable[[], "int | dict[str, Any]"]
"""What is timed; returns how many bytes it moved, or figures of which "got" is that."""
Measure = Callable[[str, str], Run]
"""(group, arm) → one run of it. Raises ArmDied."""


def kept(got: int) -> dict[str, Any]:
    """Figures of a work that hands over all that it got: what it has to hold then is not its own."""
    return {"got": got, "kept": got}


class ArmDied(Exception):
    """An arm ended before it was done; says how."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to do what a row measures.

    Args:
        prepare: connects, and returns what is to be timed.
        needs: a module; where it is missing the arm is left out.
        package: where that module comes from.
        profile: of ours, whose memory budget counts for this arm.
    """

    prepare: Callable[[Given], Work]
    needs: str = ""
    package: str = ""
    profile: str = ""

    @property
    def is_here(self) -> bool:
        return not self.needs or find_spec(self.needs) is not None


@dataclass(frozen=True, slots=True)
class Column:
    """A figure in a row's tables."""

    figure: str
    heading: str
    digits: int = 2
    has_spread: bool = False
    is_total: bool = False


@dataclass(frozen=True, slots=True)
class Aim:
    """What a figure should be.

    Args:
        says: in the summary, without the bound: "times as fast as s3fs".
        group: of which group; "": all, and the worst of them counts.
        arm: whose figure.
        than: an arm of the same repeat that it is divided by, or, with `at_least`, that is divided by it: of seconds
            that is how many times as fast it is.
        is_total: it counts of all repeats, and groups, together.
    """

    says: str
    group: str
    arm: str
    figure: str = "seconds"
    than: str = ""
    at_least: float | None = None
    at_most: float | None = None
    is_total: bool = False

    @property
    def bound(self) -> str:
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"

    def values(self, runs: Runs) -> list[float]:
        """One of each repeat in which all that it takes was measured; of a total, one."""
        found = [self._of(arms) for name, arms in runs.items() if self.group in ("", name)]
        if self.is_total:
            return [sum(value for each in found for value in each.values())] if any(found) else []
        repeats = {repeat for each in found for repeat in each}
        worst = max if self.at_least is None else min
        return [worst(each[repeat] for each in found if repeat in each) for repeat in sorted(repeats)]

    def is_met(self, values: Sequence[float]) -> bool | None:
        """Whether the median is within the bound; None if nothing was measured."""
        if not values:
            return None
        return median(values) >= self.at_least if self.at_least is not None else median(values) <= (self.at_most or 0)

    def _of(self, arms: Mapping[str, Sequence[Run]]) -> dict[float, float]:
        mine = {run["repeat"]: run[self.figure] for run in arms.get(self.arm, ()) if self.figure in run}
        if not self.than:
            return mine
        other = {run["repeat"]: run[self.figure] for run in arms.get(self.than, ()) if self.figure in run}
        both = [(repeat, mine[repeat], other[repeat]) for repeat in mine if repeat in other]
        return {at: theirs / own if self.at_least is not None else own / theirs for at, own, theirs in both}


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of work, done by several arms.

    Args:
        groups: the arms of each group; told whether it is to be quick.
        opened: what they need is there, while inside; yields what measures one arm once. Told whether it is to be
            quick, and how many repeats there will be.
        repeats: how often everything is measured; (in full, when quick).
        chart: the figure that is drawn, and its unit.
    """

    name: str
    title: str
    arms: Mapping[str, Arm]
    groups: Callable[[bool], Mapping[str, Sequence[str]]]
    opened: Callable[[bool, int], AbstractContextManager[Measure]]
    columns: Sequence[Column]
    aims: Sequence[Aim]
    chart: tuple[str, str]
    repeats: tuple[int, int] = (3, 1)

    def left_out(self) -> dict[str, str]:
        """The arms that are not here, and what would have to be installed."""
        return {name: arm.package or arm.needs for name, arm in self.arms.items() if not arm.is_here}

    def over_budget(self, runs: Runs) -> list[float]:
        """Of each repeat: the most that any arm of ours held of its memory budget, as a share of it."""
        shares: dict[float, float] = {}
        for _, _, run in each_run(runs):
            if run.get("budget_mib"):
                at = run["repeat"]
                shares[at] = max(shares.get(at, 0.0), run["held_mib"] / run["budget_mib"])
        return list(shares.values())


def each_run(runs: Runs) -> Iterator[tuple[str, str, Run]]:
    """(group, arm, run) of all."""
    for group, arms in runs.items():
        for arm, several in arms.items():
            for run in several:
                yield group, arm, run


SECONDS = Column("seconds", "s", 2, has_spread=True)
MB_PER_S = Column("mb_per_s", "MB/s", 1)
REQUESTS = Column("requests", "requests", 0)
AT_ONCE = Column("most_at_once", "at once", 0)
FETCHED = Column("fetched", "fetched", 2)
CPU_S = Column("cpu_s", "CPU s", 2)
PEAK = Column("peak_mib", "peak MiB", 0)
HELD = Column("held_mib", "of it held", 0)
BUDGET = Column("budget_mib", "may hold", 0)
MOVED = (SECONDS, MB_PER_S, REQUESTS, AT_ONCE, FETCHED, CPU_S, PEAK, HELD, BUDGET)
