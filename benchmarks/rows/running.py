"""Measures a row: all arms in turns, in an order of their own in each repeat."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from .far_store import SEED
from .row import Row, Run


@dataclass
class Measured:
    """What there is of a row, which may not be all.

    Attributes:
        died: the last words of runs that ended before they were done, by group and arm.
        is_whole: whether all was measured, or tried.
        is_broken_off: whether by Ctrl-C.
    """

    repeats: int
    runs: dict[str, dict[str, list[Run]]] = field(default_factory=dict[str, dict[str, list[Run]]])
    died: dict[str, dict[str, list[str]]] = field(default_factory=dict[str, dict[str, list[str]]])
    took_s: float = 0.0
    is_whole: bool = False
    is_broken_off: bool = False


class Progress:
    """A line on stderr for each run, with an estimate of what is left of all rows."""

    def __init__(self, rows: Sequence[tuple[Row, int]], *, quick: bool) -> None:
        self._left = [turn for row, repeats in rows for turn in turns(row, repeats, quick=quick)]
        self._all = len(self._left)
        self._took: dict[tuple[str, str, str], float] = {}

    def ended(self, row: Row, repeat: int, group: str, arm: str, took_s: float, says: str) -> None:
        self._took[row.name, group, arm] = took_s
        self._left.remove((row.name, repeat, group, arm))
        sys.stderr.write(
            f"[{self._all - len(self._left)}/{self._all}, {_rough(self.left_s)} left] "
            f"{row.name}, repeat {repeat + 1}, {group}, {arm}: {says}\n"
        )

    @property
    def left_s(self) -> float:
        """What ran once takes as long again; what never did, as long as others do in the middle."""
        usual = median(self._took.values())
        return sum(self._took.get((row, group, arm), usual) for row, _, group, arm in self._left)


def turns(row: Row, repeats: int, *, quick: bool) -> list[tuple[str, int, str, str]]:
    """(row, repeat, group, arm), in the order in which they are measured."""
    order = random.Random(SEED)
    found: list[tuple[str, int, str, str]] = []
    for repeat in range(repeats):
        for group, arms in row.groups(quick).items():
            here = [arm for arm in arms if row.arms[arm].is_here]
            found += [(row.name, repeat, group, arm) for arm in order.sample(here, len(here))]
    return found


def measure(row: Row, repeats: int, progress: Progress, *, quick: bool) -> Measured:
    """All of a row, or what there was of it until Ctrl-C."""
    found, began, wanted = Measured(repeats), time.perf_counter(), turns(row, repeats, quick=quick)
    if not wanted:
        sys.stderr.write(f"{row.name}: nothing of what it needs is here: {row.left_out()}\n")
        return found
    try:
        with row.opened(quick, repeats) as measured:
            for _, repeat, group, arm in wanted:
                started = time.perf_counter()
                try:
                    run = measured(group, arm)
                except Exception as error:
                    says = f"{type(error).__name__}: {error}"
                    found.died.setdefault(group, {}).setdefault(arm, []).append(says)
                else:
                    says = _said(row, run)
                    found.runs.setdefault(group, {}).setdefault(arm, []).append({"repeat": repeat, **run})
                progress.ended(row, repeat, group, arm, time.perf_counter() - started, says)
        found.is_whole = True
    except Exception as error:  # of what all arms need
        sys.stderr.write(f"{row.name}: {type(error).__name__}: {error}\n")
    except KeyboardInterrupt:
        found.is_broken_off = True
        sys.stderr.write(f"{row.name}: broken off; what was measured is kept\n")
    found.took_s = time.perf_counter() - began
    return found


def _said(row: Row, run: Run) -> str:
    told: list[tuple[str, Any]] = [(each.heading, f"{run[each.figure]:,.{each.digits}f}")
                                   for each in row.columns if each.figure in run]  # fmt: skip
    return ", ".join(f"{value} {heading}" for heading, value in told[:2])


def _rough(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
