"""What goes wrong on either side, and what the other one sees of it."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import closing

import httpx
import pytest

from support.gateway import GatewayProcess
from support.ports import free_ports
from support.upstream import Exchange, Upstream
from support.waiting import eventually

Start = Callable[..., GatewayProcess]


def _error(answer: httpx.Response) -> dict[str, str]:
    found = answer.json()["error"]
    assert found["message"].endswith(".")
    return found


def test_an_upstream_that_is_down_is_a_502_that_says_so(start: Start) -> None:
    (port,) = free_ports(1)
    gateway = start(upstream=f"http://127.0.0.1:{port}")
    answer = httpx.post(f"{gateway.url}/v1/x", json={})
    assert answer.status_code == 502
    assert _error(answer)["code"] == "upstream_unreachable"
    assert httpx.get(f"{gateway.url}/readyz").status_code == 503
    assert httpx.get(f"{gateway.url}/healthz").status_code == 200
    assert 'errors_total{reason="unreachable"} 1.0' in httpx.get(f"{gateway.url}/metrics").text


def test_an_upstream_that_says_nothing_is_a_504(start: Start, upstream: Upstream) -> None:
    upstream.behaves = lambda exchange: exchange.until_gone()
    gateway = start(first_byte_timeout_s=0.3, connect_timeout_s=0.2)
    answer = httpx.post(f"{gateway.url}/v1/x", json={}, timeout=10)
    assert (answer.status_code, _error(answer)["code"]) == (504, "upstream_first_byte_timeout")
    eventually(upstream.exchanges[0].gone.is_set, timeout=5, what="the upstream is let go of")


@pytest.mark.parametrize("garbage", [b"no http at all\r\n\r\n", b"\x00\x01\x02\x03\r\n\r\n", b"HTTP/9.9 abc\r\n\r\n"])
def test_an_upstream_that_sends_garbage_is_a_502(gateway: GatewayProcess, upstream: Upstream, garbage: bytes) -> None:
    upstream.behaves = lambda exchange: exchange.send(garbage)
    answer = httpx.post(f"{gateway.url}/v1/x", json={})
    assert (answer.status_code, _error(answer)["code"]) == (502, "upstream_garbage")


def test_an_upstream_that_closes_without_an_answer_is_a_502(gateway: GatewayProcess, upstream: Upstream) -> None:
    async def close(exchange: Exchange) -> None:
        exchange.writer.close()

    upstream.behaves = close
    answer = httpx.post(f"{gateway.url}/v1/x", json={})
    assert (answer.status_code, _error(answer)["code"]) == (502, "upstream_reset")


@pytest.mark.parametrize(
    "head", [b"Transfer-Encoding: chunked\r\n\r\n6\r\nbegun\n\r\n", b"Content-Length: 99\r\n\r\nbegun\n"]
)
@pytest.mark.parametrize("end", ["reset", "closed", "silent"])
def test_an_answer_that_breaks_off_is_never_ended_as_if_it_were_whole(
    start: Start, upstream: Upstream, head: bytes, end: str
) -> None:
    seen = threading.Event()

    async def break_off(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\n" + head)
        while not seen.is_set():
            await exchange.tick()
        if end == "reset":
            exchange.reset()
        elif end == "silent":
            await exchange.until_gone()

    upstream.behaves = break_off
    gateway = start(idle_timeout_s=0.3)
    found = b""
    with pytest.raises(httpx.RemoteProtocolError), httpx.stream("GET", f"{gateway.url}/x") as answer:  # noqa: PT012
        for chunk in answer.iter_raw():
            found += chunk
            seen.set()
    assert found == b"begun\n"
    reason = "idle_timeout" if end == "silent" else "reset"
    assert f'errors_total{{reason="{reason}"}} 1.0' in httpx.get(f"{gateway.url}/metrics").text


def test_a_client_that_vanishes_in_mid_stream_aborts_the_upstream_at_once(
    gateway: GatewayProcess, upstream: Upstream
) -> None:
    async def stream(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await exchange.until_gone()

    upstream.behaves = stream
    with closing(socket.create_connection(("127.0.0.1", gateway.port))) as client:
        client.sendall(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}")
        while b"first" not in client.recv(65536):
            continue
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # vanish by RST
    eventually(upstream.exchanges[0].gone.is_set, timeout=2, what="the upstream is let go of")
    eventually(
        lambda: "client_disconnects_total 1.0" in httpx.get(f"{gateway.url}/metrics").text,
        timeout=5,
        what="it is counted",
    )


def test_a_client_that_vanishes_before_the_answer_or_in_its_body_is_no_error(
    gateway: GatewayProcess, upstream: Upstream
) -> None:
    upstream.behaves = lambda exchange: exchange.until_gone()
    for body in (b"Content-Length: 2\r\n\r\n{}", b"Content-Length: 200\r\n\r\n{"):
        with closing(socket.create_connection(("127.0.0.1", gateway.port))) as client:
            client.sendall(b"POST /x HTTP/1.1\r\nHost: h\r\n" + body)
            if body.endswith(b"{}"):
                eventually(lambda: upstream.exchanges, timeout=5, what="it is under way")
    eventually(
        lambda: "client_disconnects_total 2.0" in httpx.get(f"{gateway.url}/metrics").text,
        timeout=5,
        what="both are counted",
    )
    assert upstream.exchanges[0].gone.is_set()
    assert "Traceback" not in gateway.log.read_text()


def test_a_body_over_the_limit_is_refused_before_it_is_read_or_while_it_comes(start: Start, upstream: Upstream) -> None:
    gateway = start(max_body_bytes=1000)
    for content in (b"x" * 1001, iter([b"x" * 600, b"x" * 600])):
        answer = httpx.post(f"{gateway.url}/x", content=content)
        assert (answer.status_code, _error(answer)["code"]) == (413, "body_too_large")
        assert "1,000 bytes" in answer.text
    assert all(len(exchange.body) < 1000 for exchange in upstream.exchanges)
    assert httpx.post(f"{gateway.url}/x", content=b"x" * 1000).content == b"hello"


def test_headers_over_the_limit_are_refused_whole_or_not(start: Start) -> None:
    gateway = start(max_header_bytes=2000)
    answer = httpx.get(f"{gateway.url}/x", headers={"X-Long": "a" * 2000})
    assert (answer.status_code, _error(answer)["code"]) == (431, "headers_too_large")
    with closing(socket.create_connection(("127.0.0.1", gateway.port))) as client:
        client.sendall(b"GET /x HTTP/1.1\r\nX-Endless: ")
        client.sendall(b"a" * 3000)
        assert client.recv(100).startswith(b"HTTP/1.1 431 ")


def test_a_body_that_trickles_to_a_stop_is_timed_out(start: Start, upstream: Upstream) -> None:
    upstream.behaves = lambda exchange: exchange.until_gone()
    gateway = start(idle_timeout_s=0.3)
    with closing(socket.create_connection(("127.0.0.1", gateway.port))) as client:
        client.sendall(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n123")
        assert client.recv(100).startswith(b"HTTP/1.1 408 ")


def test_a_wrong_key_is_a_401_and_a_right_one_stays_here(start: Start, upstream: Upstream) -> None:
    gateway = start(api_keys=["sk-right", "sk-other"], upstream_api_key="sk-upstream")
    for headers in ({}, {"Authorization": "Bearer sk-wrong"}, {"Authorization": "sk-right"}):
        answer = httpx.post(f"{gateway.url}/x", headers=headers)
        assert (answer.status_code, _error(answer)["code"]) == (401, "invalid_api_key")
    assert not upstream.exchanges
    assert httpx.post(f"{gateway.url}/x", headers={"Authorization": "bearer sk-other"}).content == b"hello"
    assert b"authorization: bearer sk-upstream" in upstream.exchanges[0].head.lower()
    assert b"sk-other" not in upstream.exchanges[0].head
    said = gateway.log.read_text() + httpx.get(f"{gateway.url}/metrics").text
    assert not any(key in said for key in ("sk-right", "sk-other", "sk-wrong", "sk-upstream"))


def test_keys_of_the_gateway_are_not_passed_on_and_without_keys_the_clients_own_is(
    start: Start, upstream: Upstream
) -> None:
    httpx.get(f"{start(api_keys=['sk-a']).url}/x", headers={"Authorization": "Bearer sk-a"})
    assert b"sk-a" not in upstream.exchanges[0].head
    httpx.get(f"{start().url}/x", headers={"Authorization": "Bearer sk-client"})
    assert b"sk-client" in upstream.exchanges[1].head


def test_more_streams_than_allowed_are_refused_with_a_hint(start: Start, upstream: Upstream) -> None:
    release = threading.Event()

    async def wait(exchange: Exchange) -> None:
        while not release.is_set():
            await exchange.tick()
        await exchange.answer(b"late")

    upstream.behaves = wait
    gateway = start(max_streams=1)
    first: list[bytes] = []
    thread = threading.Thread(target=lambda: first.append(httpx.get(f"{gateway.url}/x", timeout=20).content))
    thread.start()
    eventually(lambda: upstream.exchanges, timeout=5, what="the first is under way")
    answer = httpx.get(f"{gateway.url}/x")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert _error(answer)["code"] == "too_many_requests_in_flight"
    release.set()
    thread.join(20)
    assert first == [b"late"]


def test_an_upgrade_is_refused_clearly(gateway: GatewayProcess) -> None:
    answer = httpx.get(f"{gateway.url}/x", headers={"Connection": "upgrade", "Upgrade": "websocket"})
    assert (answer.status_code, _error(answer)["code"]) == (501, "upgrade_not_supported")


def test_a_request_that_is_no_http_is_a_400(gateway: GatewayProcess) -> None:
    with closing(socket.create_connection(("127.0.0.1", gateway.port))) as client:
        client.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")
