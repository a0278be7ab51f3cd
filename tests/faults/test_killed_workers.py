"""Workers die at every point of a shard's life, on every broker; no row is lost or repeated."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from holdshort.jobs import BatchInferenceJob, Client, Settings
from holdshort.jobs.controller import Controller
from holdshort.jobs.settings import PoolSettings
from support.brokers import Broker
from support.checks import assert_exactly_once, rows
from support.holdshort import Processes
from support.waiting import eventually

SLOW = {"embed": PoolSettings(engine="function", options={"target": "support.functions:slow_echo"})}

# Which time that the point is reached: where it can be, not the first, so that some work lies behind it.
POINTS = {
    "before it reads the shard": ("taken", 2),
    "in a micro-batch": ("micro_batch", 5),
    "before the commit": ("before_commit", 1),
    "between commit and continuation": ("after_commit", 1),
    "while it parks": ("parking", 1),
    "between continuation and acknowledgement": ("continued", 1),
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    # A quantum this short makes every worker park and continue several times.
    return settings.model_copy(update={"quantum_s": 0.3, "pools": SLOW})


@pytest.fixture
def housekeeping(broker: Broker, settings: Settings) -> Iterator[None]:
    """What `holdshort up` runs beside its workers, where a broker may lose a message with the worker that it kills.

    kombu pops a message from Redis and notes only then who has it (`_brpop_read`, `QoS.append`). The other brokers have
    to do without.
    """
    if broker.kind != "redis":
        yield
        return
    stop = threading.Event()
    with closing(Controller(settings)) as controller:
        thread = threading.Thread(target=controller.run, args=(stop,))
        thread.start()
        yield
        stop.set()
        thread.join()


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS.keys())
def test_a_worker_killed_at_any_point_loses_and_repeats_no_row(
    point: tuple[str, int], client: Client, processes: Processes
) -> None:
    # A shard takes two quanta, so each is parked in the middle.
    job = client.submit(BatchInferenceJob(pool="embed", input=rows(120), shard_rows=60, max_parallelism=2))
    doomed = processes.worker(kill_at=point[0], nth=point[1], ready=False)
    assert doomed.wait(timeout=30) == -signal.SIGKILL
    processes.worker()
    assert_exactly_once(job, 120, job.wait(timeout=60))


def test_twenty_random_kills_of_three_workers_lose_and_repeat_no_row(
    client: Client, processes: Processes, housekeeping: None
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    choice = random.Random(seed)
    # Attempts enough for a row that happens to be there at several of the kills.
    job = client.submit(
        BatchInferenceJob(pool="embed", input=rows(2000), shard_rows=40, max_parallelism=6, max_attempts=20)
    )
    workers = [processes.worker(ready=False) for _ in range(3)]
    for worker in workers:
        processes.wait_ready(worker)
    done = 0
    for kill in range(20):
        # Kills are spread over the job by its progress, each at a random moment after that.
        target = done + choice.randrange(1, 60)
        eventually(lambda target=target: job.status().done >= target, timeout=60, what=f"kill {kill}")
        victim = choice.randrange(3)
        workers[victim].kill()
        done = job.status().done
        workers[victim] = processes.worker(ready=False)
    assert_exactly_once(job, 2000, job.wait(timeout=120))
