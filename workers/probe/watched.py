"""One thing that a probe watches: what was last measured of it, whether to hold for it, and how that is told."""

from __future__ import annotations

from .measured import CpuLoad, GpuLoad, Unmeasured, percent
from .policy import Hysteresis

CARRY_S = 1.0
"""A value that is missing for less is taken to be as it was; after that, as entirely busy."""


class Watched:
    """The processors, or one GPU.

    Args:
        load: what was measured first; tells what its name is, and how much of it there is.
        now: monotonic seconds.
    """

    def __init__(self, load: CpuLoad | GpuLoad, threshold: float, *, now: float) -> None:
        self.gpu = load.index if isinstance(load, GpuLoad) else None
        """Its index; None for the processors."""
        self.name = "the processors" if self.gpu is None else load.whole
        self._whole = load.whole
        self._policy = Hysteresis(threshold, now=now)
        self._share = 0.0
        self._measured_at = now
        self._problem: Unmeasured | None = None

    @property
    def cure(self) -> str:
        """What may help while it can't be measured; "" when that is not known."""
        return self._problem.cure if self._problem else ""

    @property
    def holds(self) -> bool:
        """Whether to hold for it."""
        return self._policy.holds

    def tell(self, load: CpuLoad | GpuLoad | Unmeasured, now: float) -> None:
        """What was measured since the last time."""
        share = load if isinstance(load, Unmeasured) else load.others
        if isinstance(share, Unmeasured):
            if now - self._measured_at >= CARRY_S:
                self._problem, self._share = share, 1.0
        else:
            self._problem, self._share, self._measured_at = None, share, now
        if not isinstance(load, Unmeasured):
            self._whole = load.whole
        self._policy.tell(self._share, now)

    def blind_s(self, now: float) -> float:
        """For how long it could not be measured."""
        return now - self._measured_at

    def describe(self) -> str:
        """What is so, for people, e.g. "others use 74 % of 2 cores (above 50 %)"."""
        if self._problem is not None:
            return f"how busy others keep {self._whole} can't be measured: {self._problem.reason}"
        policy = self._policy
        used = f"others use {percent(policy.level)} of {self._whole}"
        if policy.level >= policy.threshold:
            return f"{used} (above {percent(policy.threshold)})"
        if policy.holds:
            return f"{used} (held until below {percent(policy.low)} for {policy.calm_s:g} s)"
        return used
