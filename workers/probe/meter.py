"""Takes one sample after the other of everything that a probe can measure."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from . import cpu
from .gpu import Gpus, open_gpus
from .measured import CpuLoad, Sample, Unmeasured
from .ours import OurWorkers


class Meter:
    """Measures from its making on; for one thread."""

    def __init__(self, ours: OurWorkers) -> None:
        self._ours = ours
        self._gpus = open_gpus()
        self._before = cpu.count(ours.families())

    def sample(self, *, strict: bool = False) -> Sample:
        """How busy others have kept the machine since the last sample.

        Args:
            strict: take a worker without a process here for one in another container, even if it may have just died.
        """
        families = self._ours.families()
        missing = self._ours.unseen if strict else self._ours.hidden
        if missing:
            self._before = cpu.count(families)
            problem = _not_seen(missing)
            return Sample(problem, self._gpus if isinstance(self._gpus, Unmeasured) else problem)
        load = self._cpu_load(cpu.count(families))
        if isinstance(self._gpus, Gpus):
            pids = frozenset[int]().union(*(family.pids for family in families))
            return Sample(load, self._gpus.read(pids))
        return Sample(load, self._gpus)

    def close(self) -> None:
        """Let go of the GPUs."""
        if isinstance(self._gpus, Gpus):
            self._gpus.close()

    def _cpu_load(self, count: cpu.CpuCount | Unmeasured) -> CpuLoad | Unmeasured:
        before, self._before = self._before, count
        if isinstance(count, Unmeasured):
            return count
        return before if isinstance(before, Unmeasured) else cpu.load_between(before, count)


def _not_seen(pids: AbstractSet[int]) -> Unmeasured:
    listed = ", ".join(map(str, sorted(pids)))
    return Unmeasured(
        f"workers of this host beat whose processes are not seen here ({listed}), so batch can't be told from others",
        "Run the probe where they run: in the same container, or with the same process ids",
    )
