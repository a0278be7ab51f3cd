"""Processor time as the kernel counts it: of each processor, and of a process with all that it started."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_FIRST_PIDS = "pid:[4026531836]"
"""The kernel's fixed number for the host's own process ids."""


@dataclass(frozen=True, slots=True)
class Family:
    """A process and its descendants.

    Attributes:
        pid, started: name the process; a number that is used again has another start.
        used_s: processor time so far. What a descendant used stays in it when that ends and its parent asks how.
        pids: all of them.
        cgroup: the process's place in the cgroup tree (v2), seen from our own; "" where that is not told.
    """

    pid: int
    started: int
    used_s: float
    pids: frozenset[int]
    cgroup: str


def family_of(pid: int) -> Family | None:
    """The family of a process; None if it is not there."""
    first = _stat(pid)
    if first is None:
        return None
    started, used = first
    pids, waiting = {pid}, [pid]
    while waiting:
        for child in _children(waiting.pop()):
            found = _stat(child)
            if found is not None and child not in pids:
                pids.add(child)
                waiting.append(child)
                used += found[1]
    return Family(pid, started, used / _TICKS_PER_S, frozenset(pids), cgroup_of(pid))


def families_of(pids: Iterable[int]) -> list[Family]:
    """The families of those processes that are there; a process that descends from another one counts there."""
    found = [family for pid in sorted(set(pids)) if (family := family_of(pid)) is not None]
    return [one for one in found if not any(one.pid in other.pids for other in found if other is not one)]


def used_by_processor() -> dict[int, float]:
    """Seconds for which each processor did something, since the host started. Time that another guest of the
    hypervisor took counts as idle: no hold of ours would give it back.

    Raises:
        OSError: there is no /proc.
    """
    found: dict[int, float] = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *counts = line.split()
        if name.startswith("cpu") and name != "cpu":
            user, nice, system, _idle, _iowait, irq, softirq = map(int, counts[:7])
            found[int(name[3:])] = (user + nice + system + irq + softirq) / _TICKS_PER_S
    return found


def tells_children() -> bool:
    """Whether this kernel tells a process's children (CONFIG_PROC_CHILDREN)."""
    return Path(f"/proc/self/task/{os.getpid()}/children").exists()


def sees_all_processes() -> bool:
    """Whether process ids mean here what they mean on the host; not so in most containers."""
    try:
        return os.readlink("/proc/self/ns/pid") == _FIRST_PIDS
    except OSError:
        return False


def cgroup_of(pid: int | str) -> str:
    """A process's place in the cgroup tree (v2); "" where there is none, or the process is gone."""
    text = _read(f"/proc/{pid}/cgroup")
    return next((line[3:] for line in text.splitlines() if line.startswith("0::")), "")


def _stat(pid: int) -> tuple[int, int] | None:
    """(start, ticks used by itself and by children that ended) of a process."""
    # The name in it may hold anything, also spaces and brackets.
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if len(fields) < 20:
        return None
    return int(fields[19]), sum(map(int, fields[11:15]))


def _children(pid: int) -> list[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    return [int(child) for thread in threads for child in _read(f"/proc/{pid}/task/{thread}/children").split()]


def _read(path: str) -> str:
    """What a file of a process says; "" once it is gone."""
    try:
        with open(path, "rb") as file:
            return file.read().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""
