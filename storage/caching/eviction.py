"""What leaves a cache that is full. Pure.

Objects of one folder are a group, such as a data set or a model. Four rules:

- What was not used for so long that it will hardly be used again goes first: one and a half times the longest time
  between two uses in its group, or a quarter of an hour as long as nothing of the group was used twice.
- Groups in use share the cache; one that was seen to use objects again has four shares. A group below its share takes
  from the one that is most above its own, what was used last first: in shuffled epochs that is needed again last.
- Where the coming order is known (prefetch), what comes later than what is new leaves, the latest first; what does not
  come at all comes last of all.
- Otherwise nothing leaves, and what is new is not kept. A data set larger than the cache, read in epochs, then finds as
  much of itself as fits; the least recently used would have left just before it is wanted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_IDLE_S = 900.0
_IDLE_MOST_S = 7 * 86400.0
_IDLE_INTERVALS = 1.5
_PROVEN_SHARES = 4
_JUST_S = 5.0
_NEVER = 2**62


@dataclass(frozen=True, slots=True)
class Resident:
    """An object in the cache.

    Attributes:
        group: its store and folder.
        size_bytes: what is there of it.
        last_s: when it was used last, seconds since the epoch.
        interval_s: the longest time between two uses; 0.0: it was used once.
    """

    key: str
    group: str
    size_bytes: int
    last_s: float
    interval_s: float


def victims(
    residents: Sequence[Resident],
    *,
    wanted_bytes: int,
    group: str,
    budget_bytes: int,
    now_s: float,
    coming: Mapping[str, int] | None = None,
    wanted_in: int | None = None,
) -> list[Resident]:
    """What to remove so that so much more of a group fits; nothing if that would not be right.

    Args:
        wanted_bytes: how much has to become free.
        coming: in how many steps from now objects are needed next, by key, as far as their order is known.
        wanted_in: the same of what is to be kept; None: it is not known to be needed again.
    """
    coming = coming or {}
    groups: defaultdict[str, list[Resident]] = defaultdict(list)
    for each in residents:
        groups[each.group].append(each)
    idle_s = {name: _idle_s(members) for name, members in groups.items()}
    dead = sorted(
        (each for each in residents if now_s - each.last_s > idle_s[each.group] and each.key not in coming),
        key=lambda each: each.last_s,
    )
    chosen = _until(dead, wanted_bytes)
    missing = wanted_bytes - _bytes(chosen)
    if missing <= 0:
        return chosen
    gone = {each.key for each in chosen}
    alive = {name: [each for each in members if each.key not in gone] for name, members in groups.items()}
    alive = {name: members for name, members in alive.items() if members}
    own = alive.setdefault(group, [])
    from_others = _of_others(alive, missing, wanted_bytes, group, budget_bytes, now_s)
    if from_others:
        return chosen + from_others
    if wanted_in is None:
        return []
    later = [each for each in own if coming.get(each.key, _NEVER) > wanted_in]
    later.sort(key=lambda each: (-coming.get(each.key, _NEVER), -each.last_s))
    leaving = _until(later, missing)
    return chosen + leaving if _bytes(leaving) >= missing else []


def _of_others(
    alive: dict[str, list[Resident]], missing: int, wanted_bytes: int, group: str, budget_bytes: int, now_s: float
) -> list[Resident]:
    """What groups above their share give to one that is below its own; nothing if that is not enough."""
    shares = {name: _PROVEN_SHARES if any(each.interval_s > _JUST_S for each in members) else 1
              for name, members in alive.items()}  # fmt: skip
    unit = budget_bytes / sum(shares.values())
    chosen: list[Resident] = []
    if _bytes(alive[group]) + wanted_bytes > unit * shares[group]:
        return []
    left = dict(alive)
    while missing > 0:
        name = max(left, key=lambda name: _bytes(left[name]) - unit * shares[name])
        if name == group or _bytes(left[name]) <= unit * shares[name]:
            return []
        # What was used a moment ago is probably being read.
        ranked = sorted(left[name], key=lambda each: (now_s - each.last_s <= _JUST_S, -each.last_s))
        chosen.append(ranked[0])
        missing -= ranked[0].size_bytes
        left[name] = ranked[1:]
    return chosen


def _idle_s(members: Sequence[Resident]) -> float:
    longest_s = max(each.interval_s for each in members)
    return min(_IDLE_MOST_S, max(_IDLE_S, longest_s * _IDLE_INTERVALS))


def _until(ordered: Sequence[Resident], wanted_bytes: int) -> list[Resident]:
    chosen: list[Resident] = []
    for each in ordered:
        if wanted_bytes <= 0:
            break
        chosen.append(each)
        wanted_bytes -= each.size_bytes
    return chosen


def _bytes(residents: Sequence[Resident]) -> int:
    return sum(each.size_bytes for each in residents)
