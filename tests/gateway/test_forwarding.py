"""What goes through the gateway comes out as it went in."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.gateway import GatewayProcess
from support.upstream import Exchange, Upstream
from support.waiting import eventually


def test_an_answer_comes_back_as_it_is(gateway: GatewayProcess, upstream: Upstream) -> None:
    upstream.behaves = lambda exchange: exchange.answer(
        b'{"a": 1}', headers=b"Content-Type: application/json\r\nX-A: b\r\n"
    )
    answer = httpx.post(f"{gateway.url}/v1/chat/completions?a=%20b&c", json={"model": "m"})
    assert (answer.status_code, answer.content, answer.headers["x-a"]) == (200, b'{"a": 1}', "b")
    (exchange,) = upstream.exchanges
    assert exchange.head.startswith(b"POST /v1/chat/completions?a=%20b&c HTTP/1.1\r\n")
    assert json.loads(exchange.body) == {"model": "m"}


def test_a_table_without_an_upstream_is_enough_if_the_command_names_it(
    request: pytest.FixtureRequest, tmp_path: Path, upstream: Upstream
) -> None:
    gateway = GatewayProcess(
        request.getfixturevalue("settings"), tmp_path, ["--upstream", upstream.url], {"api_keys": ["sk-one"]}
    )
    try:
        assert httpx.get(f"{gateway.url}/v1/models").status_code == 401
        assert httpx.get(f"{gateway.url}/v1/models", headers={"authorization": "Bearer sk-one"}).status_code == 200
    finally:
        gateway.end()


def test_a_path_is_never_rewritten(gateway: GatewayProcess, upstream: Upstream) -> None:
    with closing(socket.create_connection(("127.0.0.1", gateway.port))) as client:
        client.sendall(b"GET /a%2Fb/../c//d?x=%2B HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        _read_all(client)
    assert upstream.exchanges[0].head.startswith(b"GET /a%2Fb/../c//d?x=%2B HTTP/1.1\r\n")


def test_headers_of_one_connection_stay_there_and_the_others_go_on(gateway: GatewayProcess, upstream: Upstream) -> None:
    upstream.behaves = lambda exchange: exchange.answer(
        b"x",
        headers=b"Connection: x-secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\n"
        b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n",
    )
    with closing(http.client.HTTPConnection("127.0.0.1", gateway.port)) as client:
        client.request(
            "GET",
            "/",
            headers={"Connection": "x-hop", "X-Hop": "1", "TE": "trailers", "X-Keep": "ü".encode(), "Accept": "*/*"},
        )
        answer = client.getresponse()
        assert answer.read() == b"x"
    assert answer.getheader("x-secret") is None
    assert [value for name, value in answer.getheaders() if name == "set-cookie"] == ["a=1", "b=2"]
    head = upstream.exchanges[0].head.lower()
    assert b"x-hop" not in head
    assert b"\r\nte:" not in head
    assert "x-keep: ü".encode() in head
    assert b"x-forwarded-for: 127.0.0.1\r\n" in head
    assert f"x-forwarded-host: 127.0.0.1:{gateway.port}".encode() in head
    assert b"user-agent" not in head
    assert b"accept-encoding: identity" in head, "as http.client sends it"


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_every_method_is_forwarded(gateway: GatewayProcess, upstream: Upstream, method: str) -> None:
    assert httpx.request(method, f"{gateway.url}/x").content == b"hello"
    assert upstream.exchanges[0].head.startswith(f"{method} /x".encode())


def test_answers_without_a_body_are_forwarded(gateway: GatewayProcess, upstream: Upstream) -> None:
    upstream.behaves = lambda exchange: exchange.send(b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n")
    assert httpx.delete(f"{gateway.url}/x").status_code == 204
    upstream.behaves = lambda exchange: exchange.send(b"HTTP/1.1 304 Not Modified\r\nETag: a\r\n\r\n")
    assert httpx.get(f"{gateway.url}/x").headers["etag"] == "a"
    upstream.behaves = lambda exchange: exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n")
    assert httpx.head(f"{gateway.url}/x").headers["content-length"] == "77"


def test_redirects_compression_and_errors_are_the_clients_business(gateway: GatewayProcess, upstream: Upstream) -> None:
    upstream.behaves = lambda exchange: exchange.answer(b"", status="302 Found", headers=b"Location: http://other/\r\n")
    assert httpx.get(f"{gateway.url}/x").headers["location"] == "http://other/"
    upstream.behaves = lambda exchange: exchange.answer(b"not gzip", headers=b"Content-Encoding: gzip\r\n")
    with httpx.stream("GET", f"{gateway.url}/x") as answer:
        assert b"".join(answer.iter_raw()) == b"not gzip"
    upstream.behaves = lambda exchange: exchange.answer(
        b"slow down", status="429 Too Many", headers=b"Retry-After: 7\r\n"
    )
    refused = httpx.get(f"{gateway.url}/x")
    assert (refused.status_code, refused.headers["retry-after"], refused.text) == (429, "7", "slow down")
    assert 'holdshort_gateway_requests_total{status="429"} 1.0' in httpx.get(f"{gateway.url}/metrics").text


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=30))
def test_a_stream_is_byte_exact_however_it_is_cut(
    gateway: GatewayProcess, upstream: Upstream, parts: list[bytes]
) -> None:
    async def stream(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        await exchange.send(*(b"%x\r\n%s\r\n" % (len(part), part) for part in parts), b"0\r\n\r\n")

    upstream.behaves = stream
    assert httpx.post(f"{gateway.url}/v1/chat/completions", content=b"{}").content == b"".join(parts)


def test_a_chunk_is_there_before_the_next_one_is_sent(gateway: GatewayProcess, upstream: Upstream) -> None:
    seen = threading.Semaphore(0)

    async def stream(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for n in range(5):
            await exchange.send(b"8\r\ndata: %d\n\r\n" % n)
            while not seen.acquire(blocking=False):
                await exchange.tick()
        await exchange.send(b"0\r\n\r\n")

    upstream.behaves = stream
    with httpx.stream("GET", f"{gateway.url}/x") as answer:
        for n, chunk in enumerate(answer.iter_raw()):
            assert chunk == b"data: %d\n" % n
            seen.release()


def test_large_bodies_go_both_ways_in_a_bounded_memory(gateway: GatewayProcess, upstream: Upstream) -> None:
    megabyte = bytes(range(256)) * 4096

    async def echo_length(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (48 * len(megabyte)))
        for _ in range(48):
            await exchange.send(megabyte)

    upstream.behaves = echo_length
    before = _rss_bytes(gateway.process.pid)
    with httpx.stream("POST", f"{gateway.url}/x", content=(megabyte for _ in range(48)), timeout=60) as answer:
        size = sum(len(chunk) for chunk in answer.iter_raw())
    assert size == len(upstream.exchanges[0].body) == 48 * len(megabyte)
    assert _rss_bytes(gateway.process.pid) - before < 24e6


def test_two_hundred_streams_run_at_once(gateway: GatewayProcess, upstream: Upstream) -> None:
    together = threading.Barrier(201)

    async def stream(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        while not together.broken and not done.is_set():
            await exchange.tick()
        await exchange.send(b"4\r\nlast\r\n0\r\n\r\n")

    done = threading.Event()
    upstream.behaves = stream

    def client(_: int) -> bytes:
        with closing(socket.create_connection(("127.0.0.1", gateway.port))) as found:
            found.sendall(b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            begun = b""
            while b"first" not in begun:
                begun += found.recv(65536)
            together.wait(30)
            return begun + _read_all(found)

    with ThreadPoolExecutor(200) as pool:
        futures = [pool.submit(client, n) for n in range(200)]
        together.wait(30)
        eventually(lambda: len(upstream.exchanges) == 200, timeout=10, what="all are under way")
        done.set()
        assert all(future.result(30).endswith(b"4\r\nlast\r\n0\r\n\r\n") for future in futures)


def _read_all(client: socket.socket) -> bytes:
    found = b""
    while part := client.recv(65536):
        found += part
    return found


def _rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
