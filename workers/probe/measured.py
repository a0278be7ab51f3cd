"""What a probe measures, as plain values. What can't be measured has a reason instead of a value, and never is 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """Something that can't be measured.

    Attributes:
        reason: why, e.g. "no NVIDIA driver: NVML library not found".
        cure: what to do about it; "" when nothing is known.
    """

    reason: str
    cure: str = ""

    def __str__(self) -> str:
        return f"{self.reason}. {self.cure}" if self.cure else f"{self.reason}."


@dataclass(frozen=True, slots=True)
class CpuLoad:
    """Who used the processors over the last while.

    Attributes:
        others: the share of `cores` that processes other than our workers used, 0.0 to 1.0.
        workers: the share that our workers and their children used.
        cores: how many the shares are of: processors that this process may run on, or its cgroup's CPU quota where
            others use more of that.
        is_quota: the latter.
    """

    others: float
    workers: float
    cores: float
    is_quota: bool = False

    @property
    def whole(self) -> str:
        """What the shares are of, for people."""
        return f"{'a quota of ' if self.is_quota else ''}{self.cores:g} core{'' if self.cores == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class GpuLoad:
    """Who used a GPU over NVML's last sampling period, up to a second.

    Attributes:
        index: NVML's, by PCI bus.
        name, uuid: "" when the driver does not tell.
        busy: the share of time in which any kernel ran.
        workers, others: the share in which kernels of our workers and of other processes ran.
    """

    index: int
    name: str
    uuid: str
    busy: float | Unmeasured
    workers: float | Unmeasured
    others: float | Unmeasured

    @property
    def whole(self) -> str:
        """What the shares are of, for people."""
        return f"GPU {self.index}"


@dataclass(frozen=True, slots=True)
class Sample:
    """All that was measured at one moment."""

    cpu: CpuLoad | Unmeasured
    gpus: tuple[GpuLoad, ...] | Unmeasured

    def as_dict(self) -> dict[str, Any]:
        """For JSON. What was not measured is None, beside its reason."""
        found: dict[str, Any] = {}
        match self.cpu:
            case Unmeasured() as problem:
                found |= {"cpu": None, "cpu_reason": problem.reason}
            case load:
                found["cpu"] = {
                    "others": round(load.others, 3),
                    "workers": round(load.workers, 3),
                    "cores": load.cores,
                    "of": "quota" if load.is_quota else "processors",
                }
        match self.gpus:
            case Unmeasured() as problem:
                found |= {"gpus": None, "gpus_reason": problem.reason}
            case gpus:
                found["gpus"] = [_gpu(gpu) for gpu in gpus]
        return found


def percent(share: float) -> str:
    """A share for people: "74 %"."""
    return f"{share * 100:.0f} %"


def _gpu(gpu: GpuLoad) -> dict[str, Any]:
    found: dict[str, Any] = {"index": gpu.index, "name": gpu.name or None, "uuid": gpu.uuid or None}
    for name, value in (("busy", gpu.busy), ("workers", gpu.workers), ("others", gpu.others)):
        if isinstance(value, Unmeasured):
            found |= {name: None, f"{name}_reason": value.reason}
        else:
            found[name] = round(value, 3)
    return found
