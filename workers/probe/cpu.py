"""How busy others keep the processors that we may use: all that was used, less what our workers used."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .measured import CpuLoad, Unmeasured
from .processes import Family, tells_children, used_by_processor
from .quota import Quota, quotas


@dataclass(frozen=True, slots=True)
class CpuCount:
    """The kernel's counts at one moment.

    Attributes:
        at: monotonic seconds.
        used_s: of each processor that this process may run on.
    """

    at: float
    used_s: Mapping[int, float]
    quotas: Sequence[Quota]
    families: Sequence[Family]


def count(families: Iterable[Family]) -> CpuCount | Unmeasured:
    """The counts now; of our workers' families, the given ones."""
    if not tells_children():
        return Unmeasured(
            "this kernel does not tell the children of a process (CONFIG_PROC_CHILDREN), "
            "so batch can't be told from others"
        )
    try:
        used = used_by_processor()
    except OSError as error:
        return Unmeasured(f"/proc/stat can't be read: {error.strerror or error}")
    ours = os.sched_getaffinity(0)
    return CpuCount(
        time.monotonic(), {cpu: used_s for cpu, used_s in used.items() if cpu in ours}, quotas(), list(families)
    )


def load_between(before: CpuCount, after: CpuCount) -> CpuLoad:
    """Who used the processors between two counts.

    Where the process has a CPU quota too, the shares are of that which others use the larger share of.
    """
    elapsed_s = after.at - before.at
    cpus = before.used_s.keys() & after.used_s.keys()
    used_s = sum(after.used_s[cpu] - before.used_s[cpu] for cpu in cpus)
    earlier = {(family.pid, family.started): family.used_s for family in before.families}
    spent = [
        (family.cgroup, max(0.0, family.used_s - earlier[family.pid, family.started]))
        for family in after.families
        if (family.pid, family.started) in earlier
    ]
    loads = [_load(used_s, sum(seconds for _, seconds in spent), float(len(cpus)), elapsed_s)]
    known = {quota.path: quota for quota in before.quotas}
    for quota in after.quotas:
        if quota.path in known:
            inside_s = sum(seconds for cgroup, seconds in spent if quota.holds(cgroup))
            loads.append(
                _load(quota.used_s - known[quota.path].used_s, inside_s, quota.cores, elapsed_s, is_quota=True)
            )
    return max(loads, key=lambda load: load.others)


def _load(used_s: float, ours_s: float, cores: float, elapsed_s: float, *, is_quota: bool = False) -> CpuLoad:
    whole_s = max(cores * elapsed_s, 1e-9)
    # The two counts are taken a moment apart, and one of them in steps of 10 ms.
    others, workers = (min(max(seconds / whole_s, 0.0), 1.0) for seconds in (used_s - ours_s, ours_s))
    return CpuLoad(others, workers, cores, is_quota)
