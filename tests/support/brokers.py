"""Real brokers for tests: the embedded one, RabbitMQ and Redis, each with ports and data of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import kombu
import redis

from holdshort.jobs.broker.broker import queue_name
from support.ports import free_ports
from support.servers import Server
from support.waiting import eventually

KINDS = ("embedded", "rabbitmq", "redis")


class EmbeddedBroker:
    """No server, a file: killing it means nothing, wiping it means all."""

    kind = "embedded"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def url(self) -> str:
        return f"embedded://{self.folder}/broker.db"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def kill(self) -> None:
        """There is no process."""

    def forget(self) -> None:
        """Nothing to forget: each test has a broker of its own."""

    def wipe(self) -> None:
        """Lose all data. Nobody may be connected."""
        for file in self.folder.iterdir():
            if file.is_file():
                file.unlink()


class RedisServer(Server):
    """Redis that writes each change to its log."""

    kind = "redis"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self._port,) = free_ports(1)

    @staticmethod
    def program() -> str | None:
        return shutil.which("redis-server")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def command(self) -> Sequence[str]:
        return [
            self.program() or "redis-server", "--port", str(self._port), "--bind", "127.0.0.1", "--save", "",
            "--appendonly", "yes", "--dir", str(self.folder),
        ]  # fmt: skip

    def is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def forget(self) -> None:
        """Drop all messages, also those that a killed worker of an earlier test holds."""
        with redis.Redis(port=self._port) as client:
            client.flushall()

    def wipe(self) -> None:
        """Lose all data."""
        self.kill()
        shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)
        self.start()


class RabbitServer(Server):
    """RabbitMQ, with an Erlang port mapper of its own."""

    kind = "rabbitmq"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._port, self._distribution, self._mapper_port = free_ports(3)
        self._mapper: subprocess.Popen[bytes] | None = None

    @staticmethod
    def program() -> str | None:
        # Debian's own start script wants to become another user; this one runs as whoever we are.
        direct = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
        return str(direct) if direct.exists() else shutil.which("rabbitmq-server")

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self._port}//"

    def command(self) -> Sequence[str]:
        return [self.program() or "rabbitmq-server"]

    def environment(self) -> dict[str, str]:
        (self.folder / "plugins").write_text("[].")
        (self.folder / "rabbitmq.conf").write_text("loopback_users = none\n")
        return {
            **super().environment(),
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"test{self._port}@localhost",
            "RABBITMQ_NODE_PORT": str(self._port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "logs"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": '-kernel inet_dist_use_interface "{127,0,0,1}" +S 1:1',
        }

    def start(self, *, timeout: float = 90.0) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._mapper is None:
            mapper = shutil.which("epmd") or "epmd"
            self._mapper = subprocess.Popen(
                [mapper, "-port", str(self._mapper_port), "-address", "127.0.0.1"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            eventually(lambda: _listens(self._mapper_port), timeout=10, what="epmd answers")
        super().start(timeout=timeout)

    def is_ready(self) -> bool:
        # A port is open before the broker takes connections: only its greeting tells.
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                connection.settimeout(2)
                return connection.recv(1) == b"\x01"
        except OSError:
            return False

    def forget(self) -> None:
        """Drop all messages, also those that a killed worker of an earlier test holds: a purge would leave them."""
        with kombu.Connection(self.url) as connection:
            connection.channel().queue_delete(queue_name("embed"))

    def wipe(self) -> None:
        """Lose all data."""
        self.kill()
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        self.start()

    def close(self) -> None:
        """End it and its port mapper."""
        self.kill()
        if self._mapper is not None:
            os.killpg(self._mapper.pid, signal.SIGKILL)
            self._mapper.wait()


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


Broker = EmbeddedBroker | RedisServer | RabbitServer
