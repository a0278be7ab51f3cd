"""How busy others keep the GPUs, by NVIDIA's management library (NVML)."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from importlib import import_module
from typing import Any

from .measured import GpuLoad, Unmeasured
from .processes import sees_all_processes

_SAMPLES_S = 1.0
"""NVML takes a process's samples up to a second apart."""
_TRIES = 3
_INDEX = re.compile(r"(?:gpu|cuda|nvidia)?[:_.-]?(\d+)", re.IGNORECASE)
_BATCH_IS_IN_IT = "; what the whole device is used includes batch itself, which would hold itself"


class Gpus:
    """The GPUs of this host.

    Args:
        nvml: the module `pynvml`, initialised.
    """

    def __init__(self, nvml: Any, count: int) -> None:
        self._nvml = nvml
        self._handles: list[Any] = [None] * count
        self._names: list[tuple[str, str]] = [("", "")] * count

    def read(self, ours: AbstractSet[int]) -> tuple[GpuLoad, ...]:
        """Who uses each of them.

        Args:
            ours: the pids of our workers.
        """
        return tuple(self._read(index, ours) for index in range(len(self._handles)))

    def close(self) -> None:
        """Let go of the library."""
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError:
            return  # the driver has gone before us

    def _read(self, index: int, ours: AbstractSet[int]) -> GpuLoad:
        try:
            handle = self._handle(index)
        except self._nvml.NVMLError as error:
            problem = self._problem(error)
            return GpuLoad(index, "", "", problem, problem, problem)
        name, uuid = self._names[index]
        busy = self._busy(handle)
        shares = self._shares(handle, busy)
        if isinstance(shares, Unmeasured):
            return GpuLoad(index, name, uuid, busy, shares, shares)
        workers = sum(share for pid, share in shares.items() if pid in ours)
        others = sum(share for pid, share in shares.items() if pid not in ours)
        return GpuLoad(index, name, uuid, busy, min(workers, 1.0), min(others, 1.0))

    def _handle(self, index: int) -> Any:
        if self._handles[index] is None:
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            self._names[index] = (
                self._text(self._nvml.nvmlDeviceGetName, handle), self._text(self._nvml.nvmlDeviceGetUUID, handle),
            )  # fmt: skip
            self._handles[index] = handle
        return self._handles[index]

    def _text(self, ask: Any, handle: Any) -> str:
        try:
            return str(ask(handle))
        except self._nvml.NVMLError:
            return ""

    def _busy(self, handle: Any) -> float | Unmeasured:
        try:
            return self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        except self._nvml.NVMLError as error:
            return self._problem(error, handle)

    def _shares(self, handle: Any, busy: float | Unmeasured) -> dict[int, float] | Unmeasured:
        """The share of each process, by pid."""
        if not sees_all_processes():
            return Unmeasured(
                f"NVML names processes by the host's ids, which mean nothing in this container{_BATCH_IS_IN_IT}",
                "Run worker and probe with the host's process ids (Docker: --pid=host, Kubernetes: hostPID: true)",
            )
        try:
            samples = self._samples(handle)
        except self._nvml.NVMLError as error:
            if isinstance(busy, Unmeasured):
                return busy
            problem = self._problem(error, handle)
            return Unmeasured(f"NVML can't tell by which process: {problem.reason}{_BATCH_IS_IN_IT}", problem.cure)
        found: defaultdict[int, list[float]] = defaultdict(list)
        for sample in samples:
            if sample.smUtil <= 100:  # the driver is known to slip in samples that it never took
                found[sample.pid].append(sample.smUtil / 100)
        if not found and busy != 0.0:
            if isinstance(busy, Unmeasured):
                return busy
            return Unmeasured(f"the GPU is busy, and NVML names no process that uses it{_BATCH_IS_IN_IT}")
        return {pid: sum(shares) / len(shares) for pid, shares in found.items()}

    def _samples(self, handle: Any) -> Sequence[Any]:
        nvml = self._nvml
        since_us = round((time.time() - _SAMPLES_S) * 1e6)
        for left in reversed(range(_TRIES)):
            try:
                return nvml.nvmlDeviceGetProcessUtilization(handle, since_us)
            except nvml.NVMLError as error:
                # "Nothing found" comes in two ways: the binding takes an empty list for an error, called success.
                if error.value in (nvml.NVML_ERROR_NOT_FOUND, nvml.NVML_SUCCESS):
                    return ()
                # There were more processes than a moment ago, when the binding asked how many.
                if error.value != nvml.NVML_ERROR_INSUFFICIENT_SIZE or not left:
                    raise
        raise AssertionError

    def _problem(self, error: Any, handle: Any = None) -> Unmeasured:
        nvml = self._nvml
        match error.value:
            case nvml.NVML_ERROR_NOT_SUPPORTED if handle is not None and self._is_split(handle):
                return Unmeasured("the GPU is split (MIG), and NVML does not measure how busy its parts are")
            case nvml.NVML_ERROR_NOT_SUPPORTED:
                return Unmeasured("this GPU does not report it")
            case nvml.NVML_ERROR_NO_PERMISSION:
                return Unmeasured("NVML does not tell it to this user", "Run the probe as a user who may know it")
            case nvml.NVML_ERROR_GPU_IS_LOST:
                return Unmeasured("the GPU has fallen off the bus", "Reset it, or restart the host")
            case _:
                return Unmeasured(f"NVML: {error}")

    def _is_split(self, handle: Any) -> bool:
        try:
            return self._nvml.nvmlDeviceGetMigMode(handle)[0] == self._nvml.NVML_DEVICE_MIG_ENABLE
        except self._nvml.NVMLError:
            return False


def open_gpus() -> Gpus | Unmeasured:
    """This host's GPUs; without any, why."""
    try:
        nvml: Any = import_module("pynvml")
    except ImportError:
        return Unmeasured(
            "the Python module 'pynvml' is not installed", "Install it with: pip install 'holdshort[gpu]'"
        )
    try:
        nvml.nvmlInit()
        count: int = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        match error.value:
            case nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
                return Unmeasured(
                    "no NVIDIA driver: NVML library not found",
                    "Where there is a GPU, install its driver (in a container: pass it in, --gpus all); "
                    "where there is none, watch the processors (--cpu-above)",
                )
            case nvml.NVML_ERROR_DRIVER_NOT_LOADED:
                return Unmeasured("the NVIDIA driver is not loaded", "`nvidia-smi` says more")
            case nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
                return Unmeasured("the NVIDIA driver was updated while it was in use", "Restart the host")
            case _:
                return Unmeasured(f"NVML does not start: {error}", "`nvidia-smi` says more")
    if count == 0:
        nvml.nvmlShutdown()
        return Unmeasured("the NVIDIA driver finds no GPU", "In a container, pass one in (Docker: --gpus all)")
    return Gpus(nvml, count)


def is_named(gpu: GpuLoad, device: str) -> bool:
    """Whether a pool's device name means this GPU: by its UUID, or by its number, as "1", "gpu1" or "cuda:1"."""
    number = _INDEX.fullmatch(device)
    return (bool(gpu.uuid) and device == gpu.uuid) or (number is not None and int(number[1]) == gpu.index)
