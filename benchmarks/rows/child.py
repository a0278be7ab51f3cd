"""One process of an arm: `python -m rows.child ROW WHAT_IT_IS_TOLD_AS_JSON`; see processes.py for the other side."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from .row import Arm

_WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
_MIB = 2**20


def main(row: str, told: str) -> None:
    """Get ready, wait for the word, do the work and say what it took."""
    says = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints
    given: dict[str, Any] = json.loads(told)
    arms: Mapping[str, Arm] = import_module(f"rows.{row}").ARMS
    arm = arms[given["arm"]]
    budget = budget_mib(arm.profile)
    work = arm.prepare(given)
    before_mib = from_now()
    says.write("ready\n")
    sys.stdin.readline()
    usage, began = cpu_s(), time.perf_counter()
    done = work()
    seconds, busy_s = time.perf_counter() - began, cpu_s() - usage
    found: dict[str, Any] = {"seconds": seconds, "cpu_s": busy_s, **(done if isinstance(done, dict) else {"got": done})}
    found.update(memory(before_mib, found.pop("kept", 0)), budget_mib=budget)
    says.write(json.dumps(found) + "\n")


def memory(before_mib: float, kept: int) -> dict[str, float]:
    """The most that this process had, and what of it was held besides what there was before and what was asked for."""
    children_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    peak_mib = max(_status_mib("VmHWM"), children_mib)
    return {"peak_mib": peak_mib, "held_mib": max(0.0, peak_mib - before_mib - kept / _MIB)}


def from_now() -> float:
    """What this process has now; peaks are counted from here."""
    with suppress(OSError):  # where the system doesn't let us, imports count for the peak too
        Path("/proc/self/clear_refs").write_text("5")
    return _status_mib("VmRSS")


def _status_mib(name: str) -> float:
    """What the system says of this process; what it reports at a process's end counts the parent's too."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def cpu_s() -> float:
    """What this process and its children that have ended have taken of processors."""
    found = [resource.getrusage(who) for who in _WHO]
    return sum(each.ru_utime + each.ru_stime for each in found)


def budget_mib(profile: str) -> float:
    """As `holdshort profile explain` tells; 0 for what is not ours."""
    if not profile:
        return 0.0
    from holdshort.storage.explaining import explain

    _, plan = explain(f"{profile}::s3://bucket/object")
    return plan.access.memory_bytes / _MIB


if __name__ == "__main__":
    main(*sys.argv[1:])
