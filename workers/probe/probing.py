"""The probe at work: measures again and again, and says on the pool's lane what follows."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ...jobs.settings import Settings
from ...storage.errors import LaneError
from ...storage.opening import open_store
from ..lane.opening import open_sources
from .gpu import is_named
from .measured import CpuLoad, GpuLoad, Sample, Unmeasured
from .meter import Meter
from .ours import OurWorkers
from .watched import Watched

log = logging.getLogger(__name__)

CPU_ABOVE = 0.5
GPU_ABOVE = 0.3
ONCE_S = 0.5
"""Over how long a single sample is taken."""
_FIRST_S = 0.1
_PATIENCE_S = 1.0
_LOOK_S = 0.2
_RENEW_S = 1.0


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What to watch, and from which share that others use to hold, above 0.0 and at most 1.0.

    None: not watched. Both None: both are watched with the defaults, where they can be measured.
    """

    cpu: float | None = None
    gpu: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is left to the machine what is watched."""
        return self.cpu is None and self.gpu is None


def measure_once(settings: Settings, pool: str) -> Sample:
    """How busy others keep this host, over half a second.

    Raises:
        UnknownPool, StoreError: the pool is not configured, or the store does not answer.
    """
    meter = Meter(_our_workers(settings, pool))
    time.sleep(ONCE_S)
    sample = meter.sample(strict=True)
    meter.close()
    return sample


class Probe:
    """Holds a pool's lane on this host while others use more of the machine than a threshold.

    It fails closed: what can't be measured any more counts as entirely busy.

    Args:
        every_s: how often to measure.
        device: hold only this of the pool's devices, and watch only the GPU that it names; "" for all.

    Raises:
        UnknownPool, SettingsError: no such pool or device.
        StoreError: the store does not answer.
        LaneError: what is to be watched can't be measured here, or the lane's maps can't be made.
    """

    def __init__(
        self, settings: Settings, pool: str, thresholds: Thresholds, *, every_s: float = 0.1, device: str = ""
    ) -> None:
        self.pool = pool
        self.not_watched: list[str] = []
        """What could not be measured and was not asked for by name, with the reason."""
        self._every_s = every_s
        self._device = device
        self._lost_s = settings.pool(pool).signal_loss_timeout_s
        self._ours = _our_workers(settings, pool)
        self._meter = Meter(self._ours)
        self.watched = self._choose(thresholds)
        # Others on this host are no reason for workers of other hosts to hold.
        own = settings.model_copy(update={"lane_fanout": False})
        (self._source,) = open_sources(own, "probe", pools=[pool], device=device)
        self._said: tuple[bool, str] = (False, "")
        self._said_at = -math.inf

    def run(self, stop: threading.Event) -> None:
        """Watch until `stop` is set, then say goodbye.

        Raises:
            LaneError: something can't be measured for as long as a lost source counts (`signal_loss_timeout_s`).
        """
        self._ours.follow(stop)
        samples = self._sampling(stop)
        heard_at = time.monotonic()
        try:
            while not stop.is_set():
                try:
                    sample = samples.get(timeout=_LOOK_S)
                except queue.Empty:
                    # A driver in trouble may never answer. Nobody waits for it but the sampling thread.
                    if time.monotonic() - heard_at < self._every_s + _PATIENCE_S:
                        continue
                    sample = Unmeasured("no measurement comes back")
                else:
                    heard_at = time.monotonic()
                if isinstance(sample, Exception):
                    raise sample
                self._weigh(sample, time.monotonic())
        finally:
            self._source.close()

    # -- inside ------------------------------------------------------------------------------------------

    def _sampling(self, stop: threading.Event) -> queue.SimpleQueue[Sample | Exception]:
        samples: queue.SimpleQueue[Sample | Exception] = queue.SimpleQueue()

        def sample() -> None:
            try:
                while not stop.wait(self._every_s):
                    samples.put(self._meter.sample())
                self._meter.close()
            except Exception as error:  # noqa: BLE001 - raised again by the thread that waits for the sample
                samples.put(error)

        threading.Thread(target=sample, name="probe-sampling", daemon=True).start()
        return samples

    def _weigh(self, sample: Sample | Unmeasured, now: float) -> None:
        for watched in self.watched:
            load = sample if isinstance(sample, Unmeasured) else _load_of(sample, watched.gpu)
            watched.tell(load, now)
            if watched.blind_s(now) >= self._lost_s:
                why = Unmeasured(watched.describe(), watched.cure)
                raise LaneError(f"The probe of pool {self.pool} gives up after {self._lost_s:g} s: {why}")
        holding = [watched for watched in self.watched if watched.holds]
        self._say(bool(holding), "; ".join(watched.describe() for watched in holding or self.watched), now)

    def _say(self, holds: bool, reason: str, now: float) -> None:
        changed = holds != self._said[0] or self._said_at == -math.inf
        if not changed and (reason == self._said[1] or now - self._said_at < _RENEW_S):
            return
        if holds:
            self._source.hold(reason)
        else:
            self._source.clear(reason=reason)
        if changed:
            log.info("lane of pool %s: %s (%s)", self.pool, "hold" if holds else "clear", reason)
        self._said, self._said_at = (holds, reason), now

    def _choose(self, thresholds: Thresholds) -> list[Watched]:
        """What to watch, once it has been measured; waits for a second if it is not at once."""
        end = time.monotonic() + _PATIENCE_S
        while True:
            time.sleep(_FIRST_S)
            sample, now = self._meter.sample(), time.monotonic()
            found = list(self._candidates(sample, thresholds))
            measured = [one for one in found if not isinstance(one[0], Unmeasured)]
            if len(measured) == len(found) or now >= end:
                break
        problems = [f"{what} can't be watched: {load}" for load, _, what in found if isinstance(load, Unmeasured)]
        if problems and (not thresholds.is_open or not measured):
            raise LaneError(f"{problems[0][0].upper()}{problems[0][1:]}" + "".join(f" {one}" for one in problems[1:]))
        self.not_watched = problems
        return [Watched(load, above, now=now) for load, above, _ in measured if not isinstance(load, Unmeasured)]

    def _candidates(
        self, sample: Sample, thresholds: Thresholds
    ) -> Iterator[tuple[CpuLoad | GpuLoad | Unmeasured, float, str]]:
        """(what was measured, its threshold, its name) of all that is asked for."""
        if thresholds.cpu is not None or thresholds.is_open:
            yield sample.cpu, thresholds.cpu or CPU_ABOVE, "the processors"
        if thresholds.gpu is None and not thresholds.is_open:
            return
        above = thresholds.gpu or GPU_ABOVE
        if isinstance(sample.gpus, Unmeasured):
            yield sample.gpus, above, "GPUs"
            return
        gpus = [gpu for gpu in sample.gpus if not self._device or is_named(gpu, self._device)]
        if not gpus:
            there = ", ".join(f"gpu{gpu.index} ({gpu.uuid})" for gpu in sample.gpus)
            problem = Unmeasured(f"device {self._device!r} names none of this host's", f"They are {there}")
            yield problem, above, "GPUs"
        for gpu in gpus:
            yield gpu.others if isinstance(gpu.others, Unmeasured) else gpu, above, gpu.whole


def _our_workers(settings: Settings, pool: str) -> OurWorkers:
    settings.pool(pool)
    store = open_store(settings.store, fsync=settings.fsync, storage_options=settings.store_options)
    # Workers of other pools are batch too: two probes would else hold each other's pools for ever.
    ours = OurWorkers(store, list(settings.pools))
    ours.look()
    return ours


def _load_of(sample: Sample, gpu: int | None) -> CpuLoad | GpuLoad | Unmeasured:
    if gpu is None:
        return sample.cpu
    return sample.gpus if isinstance(sample.gpus, Unmeasured) else sample.gpus[gpu]
