"""Finding the row that kills its process, in at most `max_attempts` deaths. Pure.

When a process dies, nobody is left to say which row was at fault; all that is known is what had been noted
before. So a shard in which one died is run in groups, each noted durably before it runs, and each death
narrows the suspicion: with n rows and m attempts the group sizes fall from n to 1 in m-1 steps of equal ratio (for
m = 3 and 256 rows: 256, 16, 1). It is bisection with as many parts as the number of attempts demands.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..jobs.ledger import Attempt


@dataclass(frozen=True, slots=True)
class Plan:
    """How the rows of a shard are to be run, by place in the shard.

    Attributes:
        free: rows that no death involved; run them together, without notes.
        groups: rows to run group by group, each noted first.
        lost: rows that have had their attempts.
    """

    free: list[int]
    groups: list[list[int]]
    lost: list[int]


def plan(pending: Iterable[int], attempts: Sequence[Attempt], *, max_attempts: int) -> Plan:
    """Plan the rows that are still to be run.

    Args:
        pending: places of those rows, ascending.
        attempts: what was running at each death, in order.
    """
    result = Plan([], [], [])
    previous: Attempt | None = None
    for place in pending:
        involved = [attempt for attempt in attempts if attempt.first <= place < attempt.end]
        if not involved:
            result.free.append(place)
            previous = None
        elif len(involved) >= max_attempts:
            result.lost.append(place)
            previous = None
        else:
            size = group_size(involved[-1].end - involved[-1].first, len(involved), max_attempts)
            if previous == involved[-1] and result.groups and len(result.groups[-1]) < size:
                result.groups[-1].append(place)
            else:
                result.groups.append([place])
            previous = involved[-1]
    return result


def group_size(rows: int, deaths: int, max_attempts: int) -> int:
    """Rows per group after so many deaths, the last of which involved `rows` rows."""
    left = max_attempts - deaths
    if left <= 1:
        return 1
    return max(1, math.ceil(rows ** ((left - 1) / left)))
