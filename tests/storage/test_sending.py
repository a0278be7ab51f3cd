"""A part of an upload on its way: answered, refused, cut off."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from holdshort.storage.errors import Interrupted, SettingsError, StoreUnavailable, UploadGone
from holdshort.storage.flow import Flow
from holdshort.storage.remote import RemoteStore
from support.listening import CERTIFICATE, Handler, listening

pytest.importorskip("s3fs")

DATA = bytes(range(256)) * 40_000
TAG = f'"{hashlib.md5(DATA).hexdigest()}"'


class Server:
    """Takes PUTs; each takes the next fault that waits: a status, "close" (answers, and hangs up), "reset", "stall"."""

    def __init__(self) -> None:
        self.faults: deque[str] = deque()
        self.bodies: list[bytes] = []
        self.connections = 0
        self.stalled, self.release = threading.Event(), threading.Event()

    @contextmanager
    def serving(self, *, by_https: bool) -> Iterator[Server]:
        """While inside, it listens on a port of its own."""
        server = self

        class Taking(Handler):
            def handle(self) -> None:
                server.connections += 1
                super().handle()

            def do_PUT(self) -> None:
                fault = server.faults.popleft() if server.faults else ""
                if fault == "reset":
                    self.close_connection = True
                    return
                if fault == "stall":
                    server.stalled.set()
                    server.release.wait(30)
                    self.close_connection = True
                    return
                server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                reason = {"404": "NoSuchUpload", "503": "SlowDown"}.get(fault)
                code = f"<Error><Code>{reason}</Code></Error>".encode() if reason else b""
                self.say(int(fault) if fault.isdigit() else 200, code, {"ETag": TAG})
                self.close_connection = fault == "close"

        with listening(Taking, by_https=by_https) as self.endpoint:
            try:
                yield self
            finally:
                self.release.set()


@pytest.fixture(params=["http", "https"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(CERTIFICATE))
    with Server().serving(by_https=request.param == "https") as server:
        yield server


def putter(server: Server) -> Callable[[bytes, Flow], str]:
    """Puts a part of an upload that has begun."""
    options = {"key": "key", "secret": "secret", "client_kwargs": {"region_name": "us-east-1"}}
    parted = RemoteStore("s3://bucket", storage_options={**options, "endpoint_url": server.endpoint}).parted
    assert parted is not None
    return lambda data, flow: parted.put("key", "upload", 0, 0, data, flow)


def test_parts_go_by_one_connection_which_the_server_may_close(server: Server) -> None:
    put = putter(server)
    assert [put(DATA, Flow()) for _ in range(3)] == [TAG] * 3
    assert server.connections == 1
    server.faults.append("close")
    put(DATA, Flow())
    assert put(DATA, Flow()) == TAG
    assert server.bodies == [DATA] * 5


@pytest.mark.parametrize(
    ("fault", "said"),
    [("503", r"status 503 \(SlowDown\)"), ("403", "status 403"), ("reset", "[A-Za-z]+(Error|Disconnected): ")],
)
def test_an_answer_that_may_be_another_is_told_as_such(server: Server, fault: str, said: str) -> None:
    put = putter(server)
    server.faults.append(fault)
    with pytest.raises(StoreUnavailable, match=f"s3://bucket takes no part of an upload: {said}"):
        put(DATA, Flow())
    assert put(DATA, Flow()) == TAG


def test_an_upload_that_is_gone_is_told_as_such(server: Server) -> None:
    server.faults.append("404")
    with pytest.raises(UploadGone):
        putter(server)(DATA, Flow())


def test_a_part_that_is_stuck_is_cut_off(server: Server) -> None:
    server.faults.append("stall")
    put, flow, cut = putter(server), Flow(), threading.Event()

    def sending() -> None:
        with pytest.raises(Interrupted):
            put(DATA * 2, flow)
        cut.set()

    thread = threading.Thread(target=sending)
    thread.start()
    assert server.stalled.wait(10)
    flow.stop()
    assert cut.wait(10)
    thread.join()
    assert server.bodies == []


def test_a_certificate_that_is_not_trusted_says_how_to_trust_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    with Server().serving(by_https=True) as server, pytest.raises(SettingsError, match="AWS_CA_BUNDLE"):
        putter(server)(DATA, Flow())
