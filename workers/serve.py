"""A worker process: engine, lane, heartbeat, and Celery's consumer around the runner."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict
from types import FrameType
from typing import Any

from ..jobs import presence
from ..jobs.broker.broker import Broker, queue_name
from ..jobs.broker.message import Message
from ..jobs.checkpoints.places import Places
from ..jobs.identity import new_id
from ..jobs.ledger import Ledger
from ..jobs.settings import Settings
from ..storage.errors import BrokerUnavailable, EngineError, SettingsError, StoreError
from ..storage.opening import open_store
from ..storage.patience import PatientStore
from .app import make_app, worker_name
from .engines import registry
from .engines.checkpoint.engine import CheckpointEngine
from .lane.fanout import is_on
from .lane.reading import is_quiet
from .lane.relay_process import RelayProcess
from .lane.worker_lane import WorkerLane
from .observer import Observer, Observers, Point
from .runner import Limits, Runner
from .tally import Tally
from .trace import Trace

log = logging.getLogger(__name__)

GRACE_S = 20.0
EXIT_GRACE_OVER = 75
"""EX_TEMPFAIL: the work in hand could not be parked in time; its message comes back by itself."""
_GATE_S = 0.05
_QUIET_MOST_S = 10.0
"""Where no moment is quiet for so long, the next one that is clear has to do."""


def serve(
    settings: Settings,
    pool: str,
    *,
    device: str = "",
    metrics: str | None = None,
    observer: Observer | None = None,
    grace_s: float = GRACE_S,
) -> int:
    """Work on a pool's queue until SIGTERM or SIGINT; returns the exit status.

    SIGTERM and the first SIGINT park what is in hand; a second SIGINT ends the process at once, and the
    message comes back by itself.

    Args:
        device: which of the pool's accelerators this worker is for; "" when it has none of its own.
        metrics: where to serve /metrics, as "host:port"; instead of the pool's setting.

    Raises:
        UnknownPool, SettingsError, EngineError, StoreRefused, BrokerRefused, LaneError: before anything is consumed.
    """
    return _Worker(settings, pool, device, metrics, observer or Observer(), grace_s).run()


class _Worker:
    def __init__(
        self,
        settings: Settings,
        pool: str,
        device: str,
        metrics: str | None,
        observer: Observer,
        grace_s: float,
    ) -> None:
        self.settings = settings
        self.pool = pool
        self.device = device
        self.pool_settings = found = settings.pool(pool)
        if device and device not in found.devices:
            raise SettingsError(
                f"Pool {pool} has no device {device!r}; it has {', '.join(found.devices) or 'none of its own'} "
                f"(pools.{pool}.devices)."
            )
        self.worker_id = new_id()
        self.grace_s = grace_s
        store = open_store(settings.store, fsync=settings.fsync, storage_options=settings.store_options)
        self.store = store
        self.ledger = Ledger(PatientStore(store))
        self.broker = Broker(settings)
        self.engine = registry.create(self.pool_settings.engine, self.pool_settings.options)
        self.tally = Tally()
        self.trace = Trace(settings.trace_folder, pool) if settings.trace_folder else None
        self.observer = Observers(self.tally, *((self.trace,) if self.trace else ()), observer)
        self.lane = WorkerLane(
            settings,
            store,
            pool,
            device=device,
            on_change=self._lane_changed,
            on_lost=lambda name: self.observer.source_lost(name=name),
        )
        self.relay = RelayProcess(settings) if is_on(settings) else None
        self.metrics = metrics or found.metrics
        self.busy = _Busy()
        self.heart = _Heart(self)
        places = Places.of(settings, is_worker=True)
        bound_s = found.yield_bound_ms / 1000
        self.runner = Runner(
            self.ledger,
            {"batch": self.engine, "checkpoint": CheckpointEngine(store, places, bound_s=bound_s)},
            self._publish,
            lane=self.lane.reading,
            worker_id=self.worker_id,
            limits=Limits(
                quantum_s=settings.quantum_s,
                yield_bound_s=bound_s,
                park_after_s=found.park_after_s,
                control_interval_s=settings.control_interval_s,
                drain_s=None if found.drain_ms is None else found.drain_ms / 1000,
                min_run_s=None if found.min_run_ms is None else found.min_run_ms / 1000,
                preemptions_per_minute=found.max_preemptions_per_minute,
                suspend_when_parked=found.suspend_when_parked,
            ),
            observer=Observers(self.heart, self.observer),
            places=places,
        )
        self.controller: Any = None
        self._signals = 0

    def run(self) -> int:
        try:
            self.broker.check()
        except BrokerUnavailable as error:
            log.warning("%s Waiting for it.", error)
        if self.metrics:
            from .metrics import serve_metrics

            serve_metrics(self.metrics, self.pool, self.device, self.tally, self.lane.reading)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        with ExitStack() as leaving:
            if self.trace is not None:
                leaving.callback(self.trace.close)
            leaving.callback(self.broker.close)
            if self.relay is not None:
                self.relay.start()
                leaving.callback(self.relay.stop)
                self.relay.wait()
            self.lane.start()
            leaving.callback(self.lane.stop)
            self.heart.start()
            leaving.callback(self.heart.stop)
            self._hold_short()
            if not self._signals:
                self.engine.load()
                leaving.callback(self.engine.close)
            if not self._signals:
                self._consume()
        return 0

    def _hold_short(self) -> None:
        """Wait for a quiet moment: loading an engine takes the machine from live traffic, too."""
        is_told, most_s = False, time.monotonic() + _QUIET_MOST_S
        while not self._signals:
            reading, now = self.lane.reading(), time.monotonic()
            if is_quiet(reading, now) or (reading.signal == "clear" and now >= most_s):
                return
            if reading.signal == "hold" and not is_told:
                is_told = True
                log.info("the lane of pool %s is held; its engine is loaded when that is over", self.pool)
            time.sleep(_GATE_S)

    def engine_name(self) -> str:
        """What computes, as exactly as it is known: the engine's version once it is loaded."""
        try:
            return self.engine.info.fingerprint
        except EngineError:
            return self.pool_settings.engine

    def advance(self, message: Message, redelivered: bool) -> None:
        """The body of the task. Whatever it raises is logged, and the job goes to the outbox: never lost."""
        with self.busy(message):
            try:
                result = self.runner.advance(message, redelivered=redelivered)
                log.debug("message %s: %s", message.name, result)
            except Exception:
                log.exception("message %s failed; a controller publishes its job again", message.name)
                self.ledger.queue_again(message.job)

    def _consume(self) -> None:
        queue = self.broker.queue(self.pool)
        app = make_app(self.settings.broker, self.broker.transport, self.pool, queue, self.advance)
        self.controller = app.WorkController(
            app=app,
            hostname=worker_name(self.pool, socket.gethostname()),
            queues=[queue_name(self.pool)],
            pool="threads",
            concurrency=1,
            prefetch_multiplier=1,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            task_events=False,
            ready_callback=self._ready,
        )
        self.controller.start()

    def _ready(self, consumer: Any) -> None:
        log.info("worker %s serves pool %s", self.worker_id, self.pool)
        if self.broker.transport.name == "redis":
            from .redis_lease import RedisLease

            RedisLease(consumer, self.settings.redelivery_s).start()
        threading.Thread(target=self._gate, name="gate", daemon=True).start()

    def _gate(self) -> None:
        """Stop consuming while the lane is held for longer than a short while, so the queue serves others."""
        consuming, looked = True, time.monotonic()
        while True:
            time.sleep(_GATE_S)
            reading, now = self.lane.reading(), time.monotonic()
            held = reading.signal == "hold" and now - reading.since >= self.pool_settings.park_after_s
            if held and self.busy.message is None:
                self.observer.parked(seconds=now - looked)
                self.runner.suspend()
            looked = now
            if held != consuming:
                continue
            consuming = not held
            consumer = self.controller.consumer
            change = consumer.cancel_task_queue if held else consumer.add_task_queue
            consumer.call_soon(change, queue_name(self.pool))
            log.info("pool %s: %s consuming", self.pool, "resumed" if consuming else "stopped")

    def _publish(self, message: Message) -> None:
        self.broker.publish([message])

    def _lane_changed(self) -> None:
        self.runner.wake()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        from celery.worker import state

        self._signals += 1
        if number == signal.SIGINT and self._signals > 1:
            os._exit(130)
        log.info("worker %s leaves (%s)", self.worker_id, signal.Signals(number).name)
        if self.controller is None:
            return  # it has not begun yet
        # Celery's loop looks at this, stops consuming, and waits for the task in hand.
        state.should_stop = 0
        threading.Thread(target=self._leave_in_time, name="grace", daemon=True).start()

    def _leave_in_time(self) -> None:
        self.runner.stop()
        end = time.monotonic() + self.grace_s
        while time.monotonic() < end:
            if self.busy.idle.wait(max(0.0, end - time.monotonic())):
                return
        log.error(
            "the work in hand could not be parked within %.0f s; its message comes back by itself",
            self.grace_s,
        )
        os._exit(EXIT_GRACE_OVER)


class _Busy:
    """Which message is in hand."""

    def __init__(self) -> None:
        self.idle = threading.Event()
        self.idle.set()
        self.message: Message | None = None

    def __call__(self, message: Message) -> _Busy:
        self.message = message
        return self

    def __enter__(self) -> None:
        self.idle.clear()

    def __exit__(self, *_: object) -> None:
        self.message = None
        self.idle.set()


class _Heart(Observer):
    """Writes the worker's heartbeat: at an interval, and soon after it took a turn."""

    def __init__(self, worker: _Worker) -> None:
        self._worker = worker
        self._started_at = time.time()
        self._beat_now = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over = True
        self._beat_now.set()
        self._thread.join(timeout=5)
        try:
            presence.goodbye(self._worker.store, self._worker.pool, self._worker.worker_id)
        except StoreError as error:
            log.warning("goodbye could not be said: %s", error)

    def at(self, point: Point, *, job: str, stripe: int, shard: int | None) -> None:
        if point == "taken":
            self._beat_now.set()

    def _run(self) -> None:
        while not self._over:
            self._beat()
            self._beat_now.wait(presence.BEAT_S)
            self._beat_now.clear()

    def _beat(self) -> None:
        worker = self._worker
        message, reading = worker.busy.message, worker.lane.reading()
        try:
            presence.beat(
                worker.store,
                presence.Beat(
                    worker_id=worker.worker_id,
                    pool=worker.pool,
                    host=socket.gethostname(),
                    pid=os.getpid(),
                    engine=worker.engine_name(),
                    started_at=self._started_at,
                    at=time.time(),
                    job=message.job if message else "",
                    stripe=message.stripe if message else -1,
                    rows_per_s=worker.tally.rows_per_s,
                    signal=reading.signal,
                    reason=reading.reason,
                    headroom=reading.headroom,
                    source=reading.source,
                    held_s=max(0.0, time.monotonic() - reading.since) if reading.signal == "hold" else 0.0,
                    device=worker.device,
                    totals=asdict(worker.tally.totals),
                    yield_p50_s=worker.tally.yield_quantile_s(0.5),
                    yield_p95_s=worker.tally.yield_quantile_s(0.95),
                ),
            )
        except StoreError as error:
            log.warning("no heartbeat: %s", error)
