"""The body of an answer, straight from the socket: by a server that sends exactly what it is told, as it is told."""

from __future__ import annotations

import gc
import http.client
import random
import socket
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest

from holdshort.storage.answer import Answer
from holdshort.storage.connections import Connections
from holdshort.storage.reading.buffers import Buffers
from holdshort.storage.reading.room import Pieces, make

MIB = 2**20
BODY = random.Random(7).randbytes(3 * MIB + 17)


def _length(length: int = len(BODY), *more: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", b"Content-Length: %d" % length, *more, b"", b""])


@contextmanager
def _serving(*answers: Sequence[bytes], hang_up: bool = False) -> Generator[http.client.HTTPConnection]:
    """A connection to a server that answers one request after the other, each by these pieces."""
    with _server(*answers, hang_up=hang_up) as port:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        client.response_class = Answer
        yield client
        client.close()


@contextmanager
def _server(*answers: Sequence[bytes], hang_up: bool = False) -> Generator[int]:
    """The port of such a server, which serves one connection."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with listening.accept()[0] as connection:
                for pieces in answers:
                    while b"\r\n\r\n" not in connection.recv(65536):
                        pass
                    for piece in pieces:
                        connection.sendall(piece)
                if not hang_up:
                    over.wait()

        server = threading.Thread(target=serve)
        server.start()
        try:
            yield listening.getsockname()[1]
        finally:
            over.set()
            server.join()


def _asked(client: http.client.HTTPConnection) -> Answer:
    client.request("GET", "/")
    answer = client.getresponse()
    assert isinstance(answer, Answer)
    return answer


def _nothing(_: int) -> None:
    return None


def _cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


@pytest.mark.parametrize("size", [1000, 70_000, len(BODY)])
def test_a_body_comes_as_it_was_sent_and_the_connection_serves_the_next(size: int) -> None:
    with _serving([_length(), *_cut(BODY, size)], [_length() + BODY]) as client:
        for _ in range(2):
            answer, data, told = _asked(client), bytearray(len(BODY)), list[int]()
            assert answer.fill(memoryview(data), told.append) == len(BODY)
            assert data == BODY
            assert told == sorted(told)
            assert told[-1] == len(BODY)
            assert answer.isclosed()


def _in_turn(tasks: Sequence[Callable[[], int]]) -> None:
    for task in tasks:
        task()


def _pieces(size: int, whole: int = len(BODY)) -> Pieces:
    room = Pieces([min(size, whole - at) for at in range(0, whole, size)], Buffers(64 * MIB))
    make([room], _in_turn)
    return room


@pytest.mark.parametrize("size", [1, 70_000, MIB, len(BODY)])
@pytest.mark.parametrize("sent", [1000, len(BODY)])
def test_a_body_comes_into_several_pieces_as_into_one(size: int, sent: int) -> None:
    body = BODY if size > 1 else BODY[:5000]
    with _serving([_length(len(body)), *_cut(body, sent)], [_length() + BODY]) as client:
        answer, room, told = _asked(client), _pieces(size, len(body)), list[int]()
        assert answer.fill(room, told.append) == len(body)
        assert told == sorted(told)
        assert told[-1] == len(body)
        assert b"".join(room.take(at, min(size, len(body) - at)) for at in range(0, len(body), size)) == body
        assert answer.isclosed()
        data = bytearray(len(BODY))
        assert _asked(client).fill(memoryview(data), _nothing) == len(BODY)
        assert data == BODY, "the connection serves the next"


def test_what_comes_later_belongs_behind_what_is_there() -> None:
    there = MIB + 17
    with _serving([_length(len(BODY) - there) + BODY[there:]]) as client:
        room, told = _pieces(100_000), list[int]()
        room[:1][:] = b"x"
        assert _asked(client).fill(room, told.append, there) == len(BODY)
        assert told[0] > there
        assert told[-1] == len(BODY)
        assert room.take(there, len(BODY) - there) == BODY[there:]
        assert room.take(0, 1) == b"x"


def test_what_does_not_fit_is_left_for_the_next_read() -> None:
    with _serving([_length(), BODY]) as client:
        answer, data = _asked(client), bytearray(MIB)
        assert answer.fill(memoryview(data), _nothing) == MIB
        assert not answer.isclosed()
        assert answer.fill(memoryview(data), _nothing) == MIB
        assert data == BODY[MIB : 2 * MIB]
        assert answer.read() == BODY[2 * MIB :]


def _chunked() -> list[bytes]:
    chunks = (b"%x\r\n%b\r\n" % (len(piece), piece) for piece in _cut(BODY, 50_000))
    return [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *chunks, b"0\r\n\r\n"]


@pytest.mark.parametrize(
    ("pieces", "hang_up"),
    [
        (_chunked(), False),
        ([_length(len(BODY), b"Connection: close"), BODY], True),
        ([b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", BODY], True),
        ([b"HTTP/1.0 200 OK\r\n\r\n", BODY], True),
    ],
    ids=["chunked", "the last answer", "of no said length", "HTTP/1.0"],
)
def test_a_body_that_is_framed_otherwise_comes_too(pieces: Sequence[bytes], hang_up: bool) -> None:
    with _serving(pieces, hang_up=hang_up) as client:
        data = bytearray(len(BODY) + 1)
        assert _asked(client).fill(memoryview(data), _nothing) == len(BODY)
        assert data[:-1] == BODY
    with _serving(pieces, hang_up=hang_up) as client:
        room = _pieces(100_000, len(BODY) + 1)
        assert _asked(client).fill(room, _nothing) == len(BODY)
        assert room.take(0, len(BODY)) == BODY


@pytest.mark.parametrize("sent", [0, 10, MIB + 10])
def test_of_a_body_that_breaks_off_it_tells_how_much_came(sent: int) -> None:
    with _serving([_length(), BODY[:sent]], hang_up=True) as client:
        data = bytearray(len(BODY))
        assert _asked(client).fill(memoryview(data), _nothing) == sent
        assert data[:sent] == BODY[:sent]


@pytest.mark.parametrize("sent", [10, 2 * MIB + 10])
def test_silence_ends_it_and_what_had_come_is_told(sent: int) -> None:
    with _serving([_length(), BODY[:sent]]) as client:
        client.timeout = 0.2
        told: list[int] = []
        answer = _asked(client)
        with pytest.raises(TimeoutError):
            answer.fill(memoryview(bytearray(len(BODY))), told.append)
        assert told[-1] == sent


def test_whoever_is_told_of_progress_can_end_it() -> None:
    class Enough(Exception): ...

    def stop(got: int) -> None:
        if got >= MIB:
            raise Enough

    with _serving([_length(), BODY]) as client:
        answer = _asked(client)
        with pytest.raises(Enough):
            answer.fill(memoryview(bytearray(len(BODY))), stop)
        assert client.sock.gettimeout() == 30, "as it was, for whoever reads on"


def test_an_empty_body_needs_no_bytes() -> None:
    with _serving([_length(0)]) as client:
        assert _asked(client).fill(memoryview(bytearray(10)), _nothing) == 0


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_left_of_an_answer_keeps_no_socket_open(fails: bool) -> None:
    with _server([_length(len(BODY), b"Connection: close"), BODY[:10]], hang_up=True) as port:
        connections = Connections(("http", f"127.0.0.1:{port}"), authorities=None, named_by="")
        with suppress(ZeroDivisionError), connections.ask("GET", "/", {}) as answer:
            kept: list[object] = [answer]
            kept.append(kept)  # as the traceback of an error keeps it
            if fails:
                raise ZeroDivisionError
        del answer, kept
        gc.collect()  # an open socket would be told of here, which is an error in tests
