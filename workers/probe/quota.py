"""How much processor time this process's cgroups allow, and how much of it is used (cgroup v2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .processes import cgroup_of

_MOUNT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Quota:
    """A cgroup with a CPU quota.

    Attributes:
        path: its place in the tree.
        cores: processor seconds allowed per second.
        used_s: used so far, by all processes in it.
    """

    path: str
    cores: float
    used_s: float

    def holds(self, cgroup: str) -> bool:
        """Whether a cgroup is this one or lies in it."""
        return PurePosixPath(cgroup).is_relative_to(self.path) and ".." not in PurePosixPath(cgroup).parts


def quotas(mount: Path = _MOUNT, cgroup: str | None = None) -> list[Quota]:
    """The quotas that bind this process: its own cgroup's, and those above. None on cgroup v1.

    Args:
        mount: where the cgroup tree is mounted.
        cgroup: whose; this process's without it.
    """
    cgroup = cgroup_of("self") if cgroup is None else cgroup
    if not cgroup.startswith("/") or ".." in PurePosixPath(cgroup).parts:
        return []
    own = PurePosixPath(cgroup)
    found = (_quota(mount, path) for path in (own, *own.parents))
    return [quota for quota in found if quota is not None]


def _quota(mount: Path, path: PurePosixPath) -> Quota | None:
    folder = mount / path.relative_to("/")
    try:
        allowed, period = (folder / "cpu.max").read_text().split()
        usage = dict(line.split() for line in (folder / "cpu.stat").read_text().splitlines())
    except FileNotFoundError:  # the tree's root has no quota, and cgroup v1 no such files
        return None
    if allowed == "max":
        return None
    return Quota(str(path), int(allowed) / int(period), int(usage["usage_usec"]) / 1e6)
