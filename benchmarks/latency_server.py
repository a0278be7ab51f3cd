"""An object store on loopback that is as slow as a far one: loopback alone hides all that matters for reads.

    python benchmarks/latency_server.py FIRST_BYTE_MS MB_PER_S_PER_CONNECTION FILE [MB_PER_S_IN_ALL]

It serves FILE under every name to S3 clients (path style, any credentials) and to those of Google Cloud Storage (JSON
API), with ranges, and prints its port; under a name with "-of-N-bytes" at its end only the first N bytes of it. What is
written, by one request, in parts, or by resumable uploads, is counted and thrown away; its answer comes that late after
the last byte. A GET of /__stats answers with {"requests", "bytes", "most_at_once"} since the last one. Keep FILE on a
RAM disk.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

_CHUNK = 256 * 1024
_LATE_S = 0.01
"""Whoever wakes up late by so much finds the line as if they had not."""
_RANGE = re.compile(rb"range: *bytes=(\d+)-(\d*)", re.IGNORECASE)
_SIZE = re.compile(rb"-of-(\d+)-bytes")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_EXPECTS = re.compile(rb"expect: *100-continue", re.IGNORECASE)
_HOST = re.compile(rb"host: *([^\r]+)", re.IGNORECASE)
_CONTENT_RANGE = re.compile(rb"content-range: *bytes \d+-(\d+)/(\*|\d+)", re.IGNORECASE)
_ABOUT = re.compile(rb"/storage/v1/b/([^/?]+)(?:/(o|storageLayout))?(?:/([^?]+))?(\?.*\balt=media\b)?")
"""What Google Cloud Storage tells of a bucket, a listing or an object; with alt=media it is the object itself."""
_SUM = re.compile(rb"(x-amz-checksum-crc32c|x-amz-checksum-crc32): *([^\r]+)", re.IGNORECASE)


@dataclass
class Stats:
    """What was moved since it was asked for last."""

    requests: int = 0
    bytes: int = 0
    most_at_once: int = 0
    at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, length: int) -> None:
        with self.lock:
            self.requests += 1
            self.bytes += length
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)

    def end(self) -> None:
        with self.lock:
            self.at_once -= 1

    def take(self) -> bytes:
        with self.lock:
            told = {"requests": self.requests, "bytes": self.bytes, "most_at_once": self.most_at_once}
            self.requests = self.bytes = self.most_at_once = 0
        return json.dumps(told).encode()


class Line:
    """What all connections share.

    Args:
        per_s: bytes a second, of all together; inf for as many as the machine manages.
    """

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._free_at = 0.0
        self._lock = threading.Lock()

    def pass_on(self, length: int) -> float:
        """So many bytes more are under way; returns when (time.perf_counter) the last of them will be through."""
        with self._lock:
            self._free_at = max(self._free_at, time.perf_counter() - _LATE_S) + length / self._per_s
            return self._free_at


class Passage:
    """The bytes of one request on their way, no faster than its connection and the line may."""

    def __init__(self, per_s: float, line: Line) -> None:
        self._per_s = per_s
        self._line = line
        self._through_at = time.perf_counter()

    def passed(self, length: int) -> None:
        """So many more were moved; wait until they may have been."""
        self._through_at += length / self._per_s
        early_s = max(self._through_at, self._line.pass_on(length)) - time.perf_counter()
        if early_s > 0.002:
            time.sleep(early_s)


def serve(
    connection: socket.socket, file: int, size: int, first_byte_s: float, per_s: float, line: Line, stats: Stats
) -> None:
    """Answer the requests of one connection."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    waiting = b""
    with connection:
        while True:
            while b"\r\n\r\n" not in waiting:
                more = connection.recv(65536)
                if not more:
                    return
                waiting += more
            head, waiting = waiting.split(b"\r\n\r\n", 1)
            method, target, _ = head.split(b" ", 2)
            if target == b"/__stats":
                told = stats.take()
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(told), told))
                continue
            if method in (b"PUT", b"POST", b"DELETE"):
                waiting = take(connection, method, target, head, waiting, first_byte_s, Passage(per_s, line), stats)
                continue
            time.sleep(first_byte_s)
            sized = _SIZE.search(target)
            shown = size if sized is None else min(size, int(sized[1]))
            asked = _ABOUT.match(target)
            if asked is not None and asked[4] is None:
                tell(connection, asked, shown, stats)
                continue
            answer(connection, method, _RANGE.search(head), file, shown, Passage(per_s, line), stats)


def tell(connection: socket.socket, asked: re.Match[bytes], size: int, stats: Stats) -> None:
    """What Google Cloud Storage says of an object, or of a bucket; no listing has anything."""
    stats.begin(0)
    about: dict[str, object] = {"locationType": "region", "items": []}
    if asked[3]:
        name = unquote(asked[3].decode())
        about = {
            "bucket": asked[1].decode(), "name": name, "size": str(size), "generation": "1", "metageneration": "1",
            "etag": "one", "updated": "2026-01-01T00:00:00.000Z", "timeCreated": "2026-01-01T00:00:00.000Z",
        }  # fmt: skip
    told = json.dumps(about).encode()
    connection.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(told), told)
    )
    stats.end()


def answer(
    connection: socket.socket,
    method: bytes,
    span: re.Match[bytes] | None,
    file: int,
    size: int,
    passage: Passage,
    stats: Stats,
) -> None:
    """Send the file, or a range of it, no faster than one connection may."""
    first, last, status, extra = 0, size - 1, b"200 OK", b""
    if span is not None:
        first, last = int(span[1]), min(int(span[2]), size - 1) if span[2] else size - 1
        status, extra = b"206 Partial Content", b"Content-Range: bytes %d-%d/%d\r\n" % (first, last, size)
    length = last - first + 1
    connection.sendall(
        b'HTTP/1.1 %b\r\nETag: "one"\r\nAccept-Ranges: bytes\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n'
        b"X-Goog-Generation: 1\r\n%bContent-Length: %d\r\n\r\n" % (status, extra, length)
    )
    if method == b"HEAD":
        return
    stats.begin(length)
    try:
        sent = 0
        while sent < length:
            more = os.sendfile(connection.fileno(), file, first + sent, min(_CHUNK, length - sent))
            sent += more
            passage.passed(more)
    finally:
        stats.end()


def take(
    connection: socket.socket,
    method: bytes,
    target: bytes,
    head: bytes,
    waiting: bytes,
    first_byte_s: float,
    passage: Passage,
    stats: Stats,
) -> bytes:
    """Receive a body no faster than one connection may, and answer; returns what came behind it."""
    if _EXPECTS.search(head):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    length = int(found[1]) if (found := _LENGTH.search(head)) else 0
    stats.begin(length)
    try:
        got, room = min(length, len(waiting)), bytearray(_CHUNK)
        waiting = waiting[got:]
        while got < length:
            # Told to, the system throws away what came without a copy.
            more = connection.recv_into(room, min(_CHUNK, length - got), socket.MSG_TRUNC)
            if not more:
                raise ConnectionError
            got += more
            passage.passed(more)
        time.sleep(first_byte_s)
        status, extra, body = b"200 OK", b'ETag: "one"\r\n', b""
        if b"uploadType=resumable" in target:
            span, host = _CONTENT_RANGE.search(head), _HOST.search(head)
            body = b'{"name": "object", "bucket": "bucket", "size": "1", "generation": "1"}'
            if span is None and host is not None:
                extra = b"Location: http://%b%b&upload_id=1\r\n" % (host[1], target)
            elif span is not None and span[2] == b"*":
                status, extra, body = b"308 Resume Incomplete", b"Range: bytes=0-%b\r\n" % span[1], b""
        elif method == b"POST" and target.split(b"?")[-1].startswith(b"uploads"):
            body = b"<InitiateMultipartUploadResult><UploadId>one</UploadId></InitiateMultipartUploadResult>"
        elif method == b"POST":
            body = b'<CompleteMultipartUploadResult><ETag>"one-1"</ETag></CompleteMultipartUploadResult>'
        extra += b"".join(b"%b: %b\r\n" % each for each in _SUM.findall(head))
        connection.sendall(b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, extra, len(body), body))
    finally:
        stats.end()
    return waiting


def main(first_byte_ms: str, mb_per_s: str, path: str, mb_per_s_in_all: str = "inf") -> None:
    """Listen until killed."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    file, size, stats = os.open(path, os.O_RDONLY), Path(path).stat().st_size, Stats()
    line = Line(float(mb_per_s_in_all) * 1e6)

    def one(connection: socket.socket) -> None:
        with suppress(OSError):  # the client may leave
            serve(connection, file, size, float(first_byte_ms) / 1000, float(mb_per_s) * 1e6, line, stats)

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=one, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    main(*sys.argv[1:])
