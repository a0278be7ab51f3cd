"""Live requests raise the lane for as long as they are live, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from holdshort.jobs import Settings
from holdshort.workers.lane.place import LanePlace
from holdshort.workers.lane.reader import LaneReader
from support.gateway import GatewayProcess
from support.holdshort import environment_of
from support.upstream import Exchange, Upstream
from support.waiting import eventually

Start = Callable[..., GatewayProcess]


class Held:
    """An upstream behaviour: begins an answer, and ends it when released."""

    def __init__(self) -> None:
        self.released = threading.Event()

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        while not self.released.is_set() and not exchange.writer.transport.is_closing():
            await exchange.tick()
        await exchange.send(b"4\r\nlast\r\n0\r\n\r\n")


def test_the_lane_is_raised_before_the_body_is_read_and_lowered_after_the_last_byte(
    gateway: GatewayProcess, upstream: Upstream, reader: LaneReader
) -> None:
    assert reader.reading().signal == "clear"
    with closing(socket.create_connection(("127.0.0.1", gateway.port))) as client:
        client.sendall(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n")
        eventually(lambda: reader.reading().signal == "hold", timeout=5, what="it is raised without the body")
        assert (reader.reading().source, reader.reading().reason) == ("gateway", "live requests")
        client.sendall(b"{}")
        answer = b""
        while not answer.endswith(b"hello"):
            answer += client.recv(1000)
        eventually(lambda: reader.reading().signal == "clear", timeout=5, what="it is lowered")


def test_a_client_that_vanishes_lowers_the_lane(
    gateway: GatewayProcess, upstream: Upstream, reader: LaneReader
) -> None:
    upstream.behaves = Held()
    with closing(socket.create_connection(("127.0.0.1", gateway.port))) as client:
        client.sendall(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        while b"first" not in client.recv(65536):
            continue
        assert reader.reading().signal == "hold"
    eventually(lambda: reader.reading().signal == "clear", timeout=5, what="it is lowered")


def test_a_client_that_reads_nothing_more_does_not_keep_the_lane(
    start: Start, upstream: Upstream, reader: LaneReader
) -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while not exchange.writer.transport.is_closing():
            await exchange.send(b"x" * 100_000)

    upstream.behaves = endless
    gateway = start(idle_timeout_s=0.3)
    with closing(socket.create_connection(("127.0.0.1", gateway.port))) as client:
        client.sendall(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.recv(100)
        assert reader.reading().signal == "hold"
        eventually(lambda: reader.reading().signal == "clear", timeout=5, what="it is lowered")


def test_only_requests_that_go_on_raise_the_lane(start: Start, upstream: Upstream, settings: Settings) -> None:
    gateway = start(api_keys=["sk-a"], max_body_bytes=10)
    for path, headers in (("/healthz", {}), ("/readyz", {}), ("/metrics", {}), ("/x", {}), ("/x", {"Upgrade": "x"})):
        httpx.get(f"{gateway.url}{path}", headers=headers)
    text = httpx.get(f"{gateway.url}/metrics").text
    assert "holdshort_lane_raised_seconds_total 0.0\n" in text
    httpx.get(f"{gateway.url}/x", headers={"Authorization": "Bearer sk-a"})
    assert "holdshort_lane_raised_seconds_total 0.0\n" not in httpx.get(f"{gateway.url}/metrics").text


def test_a_gateway_that_is_killed_leaves_the_lane_held_and_one_that_is_told_to_leave_drains_and_says_goodbye(
    start: Start, upstream: Upstream, reader: LaneReader
) -> None:
    held = Held()
    upstream.behaves = held
    gateway = start(drain_timeout_s=20)
    with httpx.stream("GET", f"{gateway.url}/x", timeout=20) as answer:
        assert next(chunks := answer.iter_raw()) == b"first"
        gateway.process.send_signal(signal.SIGTERM)
        eventually(lambda: not _connects(gateway.port), timeout=5, what="no new connection is taken")
        assert reader.reading().signal == "hold"
        held.released.set()
        assert b"".join(chunks) == b"last"
    assert gateway.process.wait(20) == 0
    assert (reader.reading().signal, reader.sources()) == ("clear", [])

    upstream.behaves = Held()
    killed = start()
    with httpx.stream("GET", f"{killed.url}/x", timeout=20) as answer:
        chunks = answer.iter_raw()
        assert next(chunks) == b"first"
        assert reader.reading().signal == "hold"
        killed.process.kill()
        killed.process.wait()
    eventually(lambda: reader.reading().is_lost, timeout=5, what="the silence is noticed")
    assert reader.reading().signal == "hold"
    assert reader.losses == 1
    start()  # it returns
    eventually(lambda: reader.reading().signal == "clear", timeout=5, what="the one that took its place counts")


def test_two_gateways_each_count_and_the_death_of_one_is_a_hold_though_the_other_lives(
    start: Start, upstream: Upstream, reader: LaneReader
) -> None:
    first, _second = start(), start()
    assert len(reader.sources()) == 2
    first.process.kill()
    first.process.wait()
    eventually(lambda: reader.reading().is_lost, timeout=5, what="the silence of the first is noticed")
    assert [source.reading is not None and source.reading.is_lost for source in reader.sources()].count(True) == 1


def test_what_it_measures_is_told_on_the_lane(gateway: GatewayProcess, upstream: Upstream, reader: LaneReader) -> None:
    for _ in range(3):
        httpx.get(f"{gateway.url}/x")
    eventually(lambda: reader.sources()[0].figures.first_byte_p95_s is not None, timeout=5, what="the figures are told")
    assert 0 < (reader.sources()[0].figures.first_byte_p50_s or 0) < 1


def test_a_promise_that_is_kept_leaves_headroom_to_batch_while_requests_are_live(
    start: Start, upstream: Upstream, reader: LaneReader
) -> None:
    gateway = start(promise_first_byte_ms=5000)
    for _ in range(3):
        httpx.get(f"{gateway.url}/x")
    held = Held()
    upstream.behaves = held
    with httpx.stream("GET", f"{gateway.url}/x", timeout=30) as answer:
        chunks = answer.iter_raw()
        assert next(chunks) == b"first"
        eventually(lambda: 0 < reader.reading().headroom < 1, timeout=10, what="some headroom is left")
        assert reader.reading().signal == "clear"
        assert "of the promised 5000" in reader.reading().reason
        held.released.set()
        assert b"".join(chunks) == b"last"
    eventually(lambda: reader.reading().headroom == 1.0, timeout=5, what="all of it is left")


def test_a_full_ram_disk_is_told_before_anything_is_listened_on(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "full"
    folder.mkdir(mode=0o700)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k,mode=700", "tmpfs", folder], check=False).returncode:
        pytest.skip("mounting a RAM disk needs root")
    try:
        (folder / "filler").write_bytes(b"x" * 12_000)
        environment = {**os.environ, **environment_of(settings), "HOLDSHORT_LANE_FOLDER": str(folder)}
        ran = subprocess.run(
            [sys.executable, "-m", "holdshort.cli", "gateway", "--upstream", "http://127.0.0.1:1", "--port", "0"],
            env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    finally:
        subprocess.run(["umount", folder], check=True)
    assert ran.returncode == 7
    assert "no space is left" in ran.stderr
    assert "lane_folder" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "table", "parts"),
    [
        ([], {}, ["--upstream", "[gateway]"]),
        (["--upstream", "ftp://x"], {}, ["gateway.upstream", "http://host:port"]),
        (["--upstream", "http://u:p@x"], {}, ["upstream_api_key"]),
        (["--upstream", "http://x", "--pool", "embd"], {}, ["embd", "did you mean 'embed'"]),
        ([], {"upstream": "http://x", "max_strems": 3}, ["max_strems", "did you mean 'max_streams'"]),
    ],
)
def test_a_wrong_configuration_is_refused_with_the_setting_and_the_cure(
    settings: Settings, arguments: list[str], table: dict[str, object], parts: list[str]
) -> None:
    environment = {**os.environ, **environment_of(settings)}
    if table:
        environment["HOLDSHORT_GATEWAY"] = json.dumps(table)
    ran = subprocess.run(
        [sys.executable, "-m", "holdshort.cli", "gateway", *arguments], env=environment, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode in (4, 7)
    for part in parts:
        assert part in ran.stderr
    assert "u:p" not in ran.stderr


def _connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_reader_made_before_the_gateway_sees_it(settings: Settings, start: Start, upstream: Upstream) -> None:
    early = LaneReader(LanePlace.of(settings), "embed")
    assert early.reading().source == ""
    start()
    assert early.reading().source == "gateway"
