"""Processes that have imported what ours need before they start: a test starts many, and each would import it anew.

A server (this module as a program) imports once, and forks a child for each request. The child is a process of its own
as any other: its session, folder, environment, arguments, standard streams and exit status are those that were asked
for, and it runs the module from its beginning.

What is read from the environment on import is the server's, so whoever sets such a variable starts a cold process.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import select
import selectors
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_TESTS = Path(__file__).parent.parent
_IMPORTED = (
    "celery", "kombu.transport.pyamqp", "kombu.transport.redis", "rich.console", "rich.markdown", "rich.progress",
    "rich.table", "s3fs", "holdshort.cli.app", "holdshort.cli.output", "holdshort.jobs",
    "holdshort.jobs.broker.broker", "holdshort.jobs.broker.embedded.transport", "holdshort.jobs.client",
    "holdshort.jobs.explain", "holdshort.storage.checkpoints.by_url", "holdshort.storage.explaining",
    "holdshort.workers.engines.function", "holdshort.workers.serve",
)  # fmt: skip
_READ_WHEN_STARTED = ("HOLDSHORT_", "TEST_", "AWS_", "XDG_")
_MOST_BYTES = 2**17
_lock = threading.Lock()
_server: _Server | None = None


def is_for(variables: Mapping[str, str]) -> bool:
    """Whether these count for a warm process: no library reads them on import."""
    return all(name.startswith(_READ_WHEN_STARTED) for name in variables)


class WarmProcess:
    """`python -m MODULE` in a session of its own; as far as tests use it, what subprocess.Popen is.

    Args:
        output, errors: files that its standard output and error go to.
        stdin: a file that it reads; None: a pipe, `stdin`.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        output: IO[bytes],
        errors: IO[bytes],
        stdin: IO[bytes] | None = None,
    ) -> None:
        self.stdin: IO[bytes] | None = None
        read = -1
        if stdin is None:
            read, write = os.pipe()
            self.stdin = os.fdopen(write, "wb")
        self._told, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        asked = _Asked(module, list(arguments), str(cwd), dict(env))
        streams = [stdin.fileno() if stdin is not None else read, output.fileno(), errors.fileno(), theirs.fileno()]
        try:
            _running().ask(asked, streams)
        finally:
            theirs.close()
            if read >= 0:
                os.close(read)
        self.pid = int(self._told.recv(32))
        self._status: int | None = None

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._ended(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """The same, once it has ended. Raises subprocess.TimeoutExpired."""
        status = self._ended(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return status

    def _ended(self, within_s: float | None) -> int | None:
        if self._status is None and self._has_told(within_s):
            said = self._told.recv(32)
            self._told.close()
            assert said, "the server of warm processes has died"
            self._status = int(said)
        return self._status

    def _has_told(self, within_s: float | None) -> bool:
        looking = select.poll()  # unlike select, for descriptors of any number
        looking.register(self._told, select.POLLIN)
        return bool(looking.poll(None if within_s is None else within_s * 1000))


@dataclass(frozen=True)
class _Asked:
    module: str
    arguments: list[str]
    cwd: str
    env: dict[str, str]


class _Server:
    """The server, for the process that has started it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "support.warm", str(theirs.fileno())], pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(_TESTS)},
            )  # fmt: skip
        atexit.register(self.end)

    def ask(self, asked: _Asked, streams: list[int]) -> None:
        data = json.dumps(vars(asked)).encode()
        assert len(data) < _MOST_BYTES, "so large an environment can't be passed on"
        socket.send_fds(self._ours, [data], streams)

    def end(self) -> None:
        if self.owner == os.getpid():
            self._ours.close()
            self._process.wait()


def _running() -> _Server:
    global _server
    with _lock:
        if _server is None or _server.owner != os.getpid():
            _server = _Server()
        return _server


# -- the server ------------------------------------------------------------------------------------------


def _next_child(asking: socket.socket) -> _Asked | None:
    """Fork a child for each request: returns in the child, with its request; and None in the server, at the end."""
    selector = selectors.DefaultSelector()
    selector.register(asking, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is not asking:
                pid, told = key.data
                selector.unregister(key.fileobj)
                os.close(key.fd)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with suppress(OSError):  # nobody may want to know any more
                    told.send(str(status).encode())
                told.close()
                continue
            data, streams, _, _ = socket.recv_fds(asking, _MOST_BYTES, 4)
            if not data:
                return None
            pid = os.fork()
            if pid == 0:
                asked = _Asked(**json.loads(data))
                _become(asked, streams)
                return asked
            for stream in streams[:3]:
                os.close(stream)
            told = socket.socket(fileno=streams[3])
            selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, told))


def _become(asked: _Asked, streams: list[int]) -> None:
    os.setsid()
    with socket.socket(fileno=os.dup(streams[3])) as told:
        told.send(str(os.getpid()).encode())
    for number, stream in enumerate(streams[:3]):
        os.dup2(stream, number)
    os.closerange(3, min(2**16, os.sysconf("SC_OPEN_MAX")))
    os.chdir(asked.cwd)
    os.environ.clear()
    os.environ.update(asked.env)
    sys.path[0] = asked.cwd


def _serve(number: int) -> None:
    import gc
    from importlib import import_module

    for name in _IMPORTED:
        with suppress(ImportError):
            import_module(name)
    assert threading.active_count() == 1, "what was imported has started a thread, which a child would not have"
    gc.collect()
    gc.freeze()
    asked = _next_child(socket.socket(fileno=number))
    if asked is not None:
        sys.argv = [asked.module, *asked.arguments]
        runpy.run_module(asked.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
