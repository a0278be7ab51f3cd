"""The embedded broker between real processes, some of which die."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Exchange, Producer

from holdshort.jobs.broker.embedded import DiskFullError, register, url
from support.waiting import eventually

register()

PRELUDE = """
import os, sys, time
from kombu import Connection, Consumer, Exchange, Producer, Queue
from holdshort.jobs.broker.embedded import register
register()
URL, OPTIONS = sys.argv[1], eval(sys.argv[2])

def say(*words):
    print(*words, flush=True)

def connect():
    return Connection(URL, transport_options=OPTIONS)

def consume(connection, on_message, name="q", prefetch=1):
    channel = connection.channel()
    channel.basic_qos(0, prefetch, False)
    consumer = Consumer(channel, [Queue(name, Exchange(""), routing_key=name)], on_message=on_message)
    consumer.consume()
    return consumer
"""

WORKER = """
def work(message):
    say(message.payload, message.delivery_info["redelivered"])
    message.ack()

with connect() as connection:
    consume(connection, work)
    say("ready")
    while True:
        connection.drain_events()
"""

HOLDER = """
with connect() as connection:
    consume(connection, lambda message: say("holds", message.payload))
    say("ready")
    while True:
        connection.drain_events()
"""


class Child:
    """A Python process that talks to the broker and says what it does, a line at a time."""

    def __init__(self, folder: Path, name: str, code: str, broker: str, options: dict[str, Any]) -> None:
        self.output = folder / f"{name}.out"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PRELUDE + code, broker, repr(options)],
                stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def lines(self) -> list[str]:
        return self.output.read_text().splitlines()

    def until(self, line: str, timeout: float = 20.0) -> None:
        eventually(lambda: line in self.lines() or self._fail_if_ended(), timeout=timeout, what=f"says {line!r}")

    def kill(self, sign: int = signal.SIGKILL) -> None:
        self.process.send_signal(sign)
        if sign not in (signal.SIGSTOP, signal.SIGCONT):
            self.process.wait(timeout=20)

    def _fail_if_ended(self) -> None:
        assert self.process.poll() is None, self.output.read_text()


class Site:
    """A broker file and the processes on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = url(folder / "broker.db")
        self.children: list[Child] = []
        self.connection = Connection(self.url)

    def child(self, code: str, **options: Any) -> Child:
        child = Child(self.folder, f"child-{len(self.children)}", code, self.url, options)
        self.children.append(child)
        return child

    def publish(self, *bodies: object, **options: Any) -> None:
        producer = Producer(self.connection.default_channel, auto_declare=False)
        for body in bodies:
            producer.publish(body, exchange="", routing_key="q", serializer="json", **options)

    def count(self, table: str) -> int:
        return int(self.connection.transport.database.file.run(f"SELECT count(*) FROM {table}")[0][0])

    def close(self) -> None:
        for child in self.children:
            if child.process.poll() is None:
                child.process.kill()
                child.process.wait()
        self.connection.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


# -- sharing ---------------------------------------------------------------------------------------------


def test_four_consumers_share_a_queue_and_each_message_goes_to_one(site: Site) -> None:
    workers = [site.child(WORKER) for _ in range(4)]
    for worker in workers:
        worker.until("ready")
    publishers = [
        site.child(
            f"""
with connect() as connection:
    for number in range({part}, 800, 2):
        Producer(connection.default_channel).publish(number, exchange="", routing_key="q", serializer="json")
say("done")
"""
        )
        for part in range(2)
    ]
    for publisher in publishers:
        publisher.until("done")
    eventually(lambda: site.count("message") == 0)
    for worker in workers:
        worker.kill()
    took = [worker.lines()[1:] for worker in workers]
    assert sorted(line for lines in took for line in lines) == sorted(f"{number} False" for number in range(800))
    assert all(took)


def test_fanout_reaches_every_process(site: Site) -> None:
    listeners = [
        site.child(
            f"""
with connect() as connection:
    channel = connection.channel()
    queue = Queue("listener-{number}", Exchange("news", "fanout"), exclusive=True, auto_delete=True)
    with Consumer(channel, [queue], on_message=lambda message: say(message.payload), no_ack=True):
        say("ready")
        while True:
            connection.drain_events()
"""
        )
        for number in range(3)
    ]
    for listener in listeners:
        listener.until("ready")
    exchange = Exchange("news", "fanout")
    Producer(site.connection.default_channel, exchange).publish("hear", serializer="json")
    for listener in listeners:
        listener.until("hear")
        listener.kill()
    keeper = site.child(WORKER)  # whoever consumes buries the dead
    keeper.until("ready")
    eventually(lambda: site.count("binding") == 0, what="dead listeners' queues are gone")
    Producer(site.connection.default_channel, exchange).publish("nobody", serializer="json")
    assert site.count("message") == 0


def test_parent_and_child_of_a_fork_use_their_own_connections(site: Site) -> None:
    forker = site.child(
        """
connection = connect()
held = []
consumer = consume(connection, held.append, prefetch=1)
Producer(connection.default_channel).publish("parent's", exchange="", routing_key="q", serializer="json")
connection.drain_events(timeout=5)
mine = connection.transport.session.id
pid = os.fork()
if pid == 0:
    held[0].ack()                                  # not the child's to acknowledge
    Producer(connection.default_channel).publish("child's", exchange="", routing_key="q", serializer="json")
    assert connection.transport.session.id != mine
    say("child done")
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert connection.transport.database.file.run("SELECT count(*) FROM message") == [(2,)]
held[0].ack()
connection.drain_events(timeout=5)
assert held[1].payload == "child's"
held[1].ack()
assert connection.transport.database.file.run("PRAGMA integrity_check") == [("ok",)]
connection.close()
say("parent done")
"""
    )
    forker.until("parent done")
    assert "child done" in forker.lines()
    assert site.count("message") == 0


# -- death -----------------------------------------------------------------------------------------------


def test_the_message_of_a_killed_consumer_comes_back_at_once(site: Site) -> None:
    holder = site.child(HOLDER, lease_s=30)
    holder.until("ready")
    site.publish("a")
    holder.until("holds a")
    heir = site.child(WORKER, lease_s=30)
    heir.until("ready")
    killed = time.monotonic()
    holder.kill()
    heir.until("a True")
    assert time.monotonic() - killed < 5  # far below the lease: the unbound doorbell told


def test_a_forked_child_does_not_make_its_dead_parent_look_alive(site: Site) -> None:
    parent = site.child(
        """
connection = connect()
consumer = consume(connection, lambda message: say("holds", message.payload))
connection.drain_events()
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
say("forked", child)
time.sleep(60)
""",
        lease_s=30,
    )
    site.publish("a")
    eventually(lambda: "forked" in parent.output.read_text())
    heir = site.child(WORKER, lease_s=30)
    heir.until("ready")
    parent.kill()
    try:
        heir.until("a True", timeout=10)
    finally:
        os.kill(int(parent.lines()[-1].split()[1]), signal.SIGKILL)


def test_the_message_of_a_stopped_consumer_comes_back_with_its_lease(site: Site) -> None:
    holder = site.child(HOLDER, lease_s=1.0)
    holder.until("ready")
    site.publish("a")
    holder.until("holds a")
    heir = site.child(WORKER, lease_s=1.0)
    heir.until("ready")
    stopped = time.monotonic()
    holder.kill(signal.SIGSTOP)
    heir.until("a True")
    assert 0.5 < time.monotonic() - stopped < 5
    holder.kill(signal.SIGCONT)
    eventually(lambda: holder.process.poll() is not None, what="the buried consumer notices")
    assert "SessionLostError" in holder.output.read_text()


def test_a_missing_doorbell_means_waiting_for_the_lease(site: Site) -> None:
    holder = site.child(HOLDER, lease_s=2.0)
    holder.until("ready")
    site.publish("a")
    holder.until("holds a")
    shutil.rmtree(site.folder / "broker.db-bells")
    heir = site.child(WORKER, lease_s=2.0)
    heir.until("ready")
    killed = time.monotonic()
    holder.kill()
    heir.until("a True")
    assert time.monotonic() - killed > 1.0


def test_kills_at_random_moments_lose_and_double_nothing(site: Site) -> None:
    site.publish(*range(300))
    alive = [site.child(WORKER, lease_s=2) for _ in range(2)]
    for victim in range(4):
        alive[0].until("ready")
        seen = len(alive[0].lines())
        eventually(lambda seen=seen: len(alive[0].lines()) > seen or site.count("message") == 0, every=0.003)
        alive.pop(0).kill()
        alive.append(site.child(WORKER, lease_s=2))
        del victim
    eventually(lambda: site.count("message") == 0)
    said = [line for child in site.children for line in child.lines() if line[0].isdigit()]
    assert {int(line.split()[0]) for line in said} == set(range(300))
    # A kill between saying and acknowledging repeats that one message, marked as redelivered.
    first = [line for line in said if line.endswith("False")]
    assert len(first) == len(set(first))
    assert len(said) <= 300 + 4


# -- space -----------------------------------------------------------------------------------------------


def test_fifty_thousand_messages_leave_a_small_file(site: Site) -> None:
    producer = Producer(site.connection.default_channel, auto_declare=False, serializer="json")
    channel = site.connection.default_channel
    body = "x" * 200
    for _ in range(50):
        with producer.batch():
            for _ in range(1000):
                producer.publish(body, exchange="", routing_key="q")
        database = site.connection.transport.database
        session = site.connection.transport.session
        with database.file.transaction():  # one transaction, because this is about space
            for _ in range(1000):
                assert database.ack(database.claim("q", session.id))
    assert channel.queue_declare("q", passive=True).message_count == 0
    session.sweep()
    sizes = {file.name: file.stat().st_size for file in site.folder.iterdir() if file.is_file()}
    assert sizes["broker.db"] < 3_000_000
    assert sizes["broker.db-wal"] < 8_000_000


FULL_DISK = """
import logging, threading
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
from holdshort.jobs.broker.embedded import DiskFullError
from kombu.exceptions import OperationalError

folder = os.path.dirname(URL.partition("://")[2])
connection = connect()
connection.connect()
producer = Producer(connection.default_channel, auto_declare=False)
def publish(body):
    producer.publish(body, exchange="", routing_key="q", serializer="json")
publish("first")
held = []
consume(connection, held.append)
connection.drain_events(timeout=5)

filler = open(folder + "/filler", "wb", buffering=0)
try:
    while True:
        filler.write(b"x" * 4096)
except OSError:
    pass
accepted = ["first"]
try:
    for number in range(5000):
        publish(f"{number} " + "x" * 900)
        accepted.append(f"{number} " + "x" * 900)
except DiskFullError as error:
    assert isinstance(error, connection.connection_errors)
    say("publishing:", error)
else:
    raise AssertionError("the disk did not fill up")
held[0].ack()                                   # waits for space by itself
try:
    connection.drain_events(timeout=1.5)        # and so does the consumer, without an error
except TimeoutError:
    pass
say("still here with", len(held))
os.unlink(folder + "/filler")
filler.close()
while len(held) < len(accepted):
    connection.drain_events(timeout=10)
    held[-1].ack()
assert [message.payload for message in held] == accepted, [m.payload[:9] for m in held]
deadline = time.monotonic() + 10
while connection.transport.database.file.run("SELECT count(*) FROM message") != [(0,)]:
    assert time.monotonic() < deadline
    time.sleep(0.02)
connection.close()
say("nothing lost")
"""


def test_a_full_disk_loses_nothing_and_ends_by_itself(site: Site) -> None:
    small = site.folder / "small"
    small.mkdir()
    program = ["sh", "-c", f'mount -t tmpfs -o size=2m tmpfs "{small}" && exec "$@"', "sh"]
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", *program, "true"], check=False).returncode:
        pytest.skip("needs a small tmpfs, and user namespaces to mount it in")
    done = subprocess.run(
        [unshare, "-rm", *program, sys.executable, "-c", PRELUDE + FULL_DISK, url(small / "broker.db"), "{}"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert "nothing lost" in done.stdout, done.stdout + done.stderr
    assert "is full. Messages accepted before are safe" in done.stdout
    assert DiskFullError.__name__ not in done.stderr


# -- Celery ----------------------------------------------------------------------------------------------

APP = """
import os, sys, time
from celery import Celery
from holdshort.jobs.broker.embedded import register
register()
app = Celery("app", broker=os.environ["BROKER"])
app.conf.update(
    task_acks_late=True, task_reject_on_worker_lost=True, worker_prefetch_multiplier=1, task_ignore_result=True,
    task_default_queue="q", broker_connection_retry_on_startup=True,
    worker_cancel_long_running_tasks_on_connection_loss=False,
)

def say(*words):
    with open(os.environ["LOG"], "a") as log:
        print(*words, file=log)

@app.task(name="work")
def work(number):
    say("work", number)

@app.task(name="hang", bind=True)
def hang(self, seconds):
    say("hang", self.request.delivery_info["redelivered"])
    if not self.request.delivery_info["redelivered"]:
        time.sleep(seconds)
    say("hung")
"""


class CeleryApp:
    """Celery workers as they run in production, and their log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.log.touch()
        (folder / "embedded_app.py").write_text(APP)
        self.environment = {
            **os.environ, "BROKER": url(folder / "broker.db"), "LOG": str(self.log), "PYTHONPATH": str(folder)
        }  # fmt: skip
        self.workers: list[subprocess.Popen[bytes]] = []

    def worker(self) -> subprocess.Popen[bytes]:
        name = f"w{len(self.workers)}@here"
        with (self.folder / f"{name}.out").open("wb") as output:
            worker = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "embedded_app", "worker", "--pool=threads", "-c1", f"-n{name}"],
                env=self.environment, cwd=self.folder, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.workers.append(worker)
        return worker

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def close(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()


@pytest.fixture
def celery_app(tmp_path: Path) -> Iterator[CeleryApp]:
    app = CeleryApp(tmp_path)
    yield app
    app.close()


@pytest.fixture
def client(celery_app: CeleryApp) -> Iterator[Any]:
    from celery import Celery

    app = Celery("app", broker=celery_app.environment["BROKER"], set_as_current=False)
    app.conf.update(task_default_queue="q", task_ignore_result=True)
    yield app
    app.close()


def answering(client: Any) -> list[str]:
    return sorted(name for answer in client.control.ping(timeout=0.5) for name in answer)


def test_celery_drains_answers_and_stops(celery_app: CeleryApp, client: Any, site: Site) -> None:
    worker = celery_app.worker()
    eventually(lambda: answering(client) == ["w0@here"])
    begin = time.monotonic()
    for number in range(200):
        client.send_task("work", [number])
    eventually(lambda: len(celery_app.lines()) == 200)
    assert time.monotonic() - begin < 20  # a poll a second would take 200
    assert celery_app.lines() == [f"work {number}" for number in range(200)]

    client.send_task("hang", [1.0])
    eventually(lambda: len(celery_app.lines()) == 201)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=15) == 0
    assert celery_app.lines()[-1] == "hung"
    assert (site.count("message"), site.count("consumer")) == (0, 0)
    bells = os.listdir(celery_app.folder / "broker.db-bells")
    assert [bell for bell in bells if bell.startswith(f"{worker.pid}-")] == []


def test_the_task_of_a_killed_celery_worker_goes_to_another(celery_app: CeleryApp, client: Any) -> None:
    first = celery_app.worker()
    eventually(lambda: answering(client) == ["w0@here"])
    client.send_task("hang", [60])
    eventually(lambda: celery_app.lines() == ["hang False"])
    celery_app.worker()
    eventually(lambda: answering(client) == ["w0@here", "w1@here"])
    killed = time.monotonic()
    first.kill()
    eventually(lambda: celery_app.lines() == ["hang False", "hang True", "hung"])
    assert time.monotonic() - killed < 6
    first.wait()
    eventually(lambda: answering(client) == ["w1@here"])
