"""Real servers for tests, each a process group of its own in a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from support.ports import free_ports
from support.waiting import eventually


class Server:
    """A server process that can be killed and started again on the same port and data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str]:
        """What to run."""
        raise NotImplementedError

    def is_ready(self) -> bool:
        """Whether it answers."""
        raise NotImplementedError

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, timeout: float = 60.0) -> None:
        """Start it and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder,
                start_new_session=True, env=self.environment(),
            )  # fmt: skip
        try:
            eventually(self._is_up, timeout=timeout, every=0.1, what=f"{type(self).__name__} answers")
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End it at once, with its children."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()

    def environment(self) -> dict[str, str]:
        """Its environment: ours, without proxies."""
        return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def _is_up(self) -> bool:
        if not self.is_running:
            tail = self.log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{type(self).__name__} ended at its start:\n{tail}")
        return self.is_ready()


class SeaweedServer(Server):
    """SeaweedFS with its S3 interface."""

    KEY, SECRET = "holdshort", "holdshort-secret"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        ports = free_ports(10)
        names = ("master", "volume", "filer", "s3")
        self._ports = dict(zip(names, ports[:4], strict=True))
        self._grpc_ports = dict(zip(names, ports[4:8], strict=True))
        self._further = ports[8:]

    @staticmethod
    def program() -> str | None:
        """Where the program is; None if it is not installed."""
        beside = Path(sys.executable).parent / "weed"
        return str(beside) if beside.exists() else shutil.which("weed")

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3']}"

    @property
    def options(self) -> dict[str, Any]:
        """fsspec storage options for it."""
        # Few tries of the client's own, so that a server that is away is noticed soon.
        return {
            "key": self.KEY,
            "secret": self.SECRET,
            "endpoint_url": self.endpoint,
            "client_kwargs": {"region_name": "us-east-1"},
            "config_kwargs": {"retries": {"max_attempts": 1}, "connect_timeout": 2, "read_timeout": 10},
        }

    def command(self) -> Sequence[str]:
        program = self.program()
        if program is None:
            raise FileNotFoundError("weed")
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        credentials = [{"accessKey": self.KEY, "secretKey": self.SECRET}]
        config = {"identities": [{"name": "tests", "credentials": credentials, "actions": actions}]}
        (self.folder / "s3.json").write_text(json.dumps(config))
        (self.folder / "data").mkdir(exist_ok=True)
        flags = {
            **{f"{name}.port": port for name, port in self._ports.items()},
            **{f"{name}.port.grpc": port for name, port in self._grpc_ports.items()},
            "dir": self.folder / "data", "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "filer": "true",
            "s3": "true", "s3.config": self.folder / "s3.json", "s3.port.iceberg": 0, "s3.port.lance": 0,
            "filer.localSocket": self.folder / "filer.sock", "s3.localSocket": self.folder / "s3.sock",
            "volume.max": 200, "master.volumeSizeLimitMB": 64, "master.telemetry": "false",
            "master.electionTimeout": "1s", "debug.port": self._further[0],
        }  # fmt: skip
        return [program, "server", *(f"-{name}={value}" for name, value in flags.items())]

    def is_ready(self) -> bool:
        import botocore.exceptions

        try:
            with socket.create_connection(("127.0.0.1", self._ports["s3"]), timeout=1):
                pass
            client = self.client()
            try:
                if "holdshort" not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
                    client.create_bucket(Bucket="holdshort")
                # Answers come before anything can be stored.
                client.put_object(Bucket="holdshort", Key="ready", Body=b"x")
            finally:
                client.close()
        except (OSError, botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
            return False
        return True

    def client(self) -> Any:
        """A plain S3 client."""
        import botocore.session
        from botocore.config import Config

        return botocore.session.Session().create_client(
            "s3", region_name="us-east-1", endpoint_url=self.endpoint, aws_access_key_id=self.KEY,
            aws_secret_access_key=self.SECRET,
            config=Config(connect_timeout=2, read_timeout=5, retries={"max_attempts": 0}),
        )  # fmt: skip


class GcsEmulator(Server):
    """gcp-storage-emulator, for what gcsfs does of its own.

    It ignores preconditions (ifGenerationMatch), says no generation with an object's bytes, takes ranges that count
    from the end for no range at all, and answers one request at a time.
    """

    BUCKET = "holdshort"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._port = free_ports(1)[0]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def options(self) -> dict[str, Any]:
        """fsspec storage options for it."""
        return {"token": "anon", "endpoint_url": self.endpoint}

    def command(self) -> Sequence[str]:
        return [
            sys.executable, "-m", "gcp_storage_emulator", "start", "--in-memory", "--quiet",
            "--host", "127.0.0.1", "--port", str(self._port), "--default-bucket", self.BUCKET,
        ]  # fmt: skip

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False
