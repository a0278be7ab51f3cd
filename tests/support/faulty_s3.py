"""An S3 server that fails as it is told: for what a real one does only on its worst days."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import socket
import struct
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import unescape
from typing import Any
from urllib.parse import parse_qsl

import google_crc32c

from support.listening import Handler, listening

_CRC, _MARK = "x-amz-checksum-crc32c", "x-amz-meta-holdshort-writer"


def _inner(name: str, text: str) -> str:
    found = re.search(f"<{name}>(.*?)</{name}>", text)
    return found[1] if found else ""


class FaultyS3:
    """Serves `content` under every name that has nothing of its own, in `contents` or by being written.

    Names in `refused` are answered by 403. Each request takes the next fault that waits for it.

    Faults of a GET: a status ("503", "403"), "cut" (ends after half of the body), "reset" (no answer at all), "changed"
    (the object is another one from now on), "other range", "no range" (all of it, with status 200), "halved" (half
    of the body comes once `goes_on` is set, or after 10 s).

    Faults of "PUT" (an object or a part), "create", "complete" and "abort": a status; "reset" (before the body is
    read), "reset in mid-body"; "flipped" (a bit of the body changes on its way); "lost" (it is done, and the answer is
    lost), "cut" (it is done, and half of the answer comes), "error in 200" (it is not done, though the status is 200).

    Attributes:
        sums: which sums of bodies it checks: "crc32c" as well as MD5, or "md5" only.
        encrypts: whether tags say nothing of bytes, and are others each time, as with SSE-KMS.
        objects: what was written, by path.
        uploads: unfinished uploads: parts by number, by id.
        on_lost: called once an answer is lost.
        on_get: called with the path when a GET has come.
        held_in_vain: how many second halves nobody let go of.
        connected: how many connections are open.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.contents: dict[str, bytes] = {}
        self.refused: set[str] = set()
        self._served_of: Counter[str] = Counter()
        self.tag = '"first"'
        self.faults: deque[str] = deque()
        self.faults_of: defaultdict[str, deque[str]] = defaultdict(deque)
        self.sums = "crc32c"
        self.encrypts = False
        self.objects: dict[str, tuple[bytes, str, str]] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.marks: dict[str, str] = {}
        self.parts: dict[str, dict[int, tuple[str, str]]] = {}
        self.writes: list[str] = []
        self.gets = 0
        self.served_bytes = 0
        self.on_lost: Callable[[], object] = lambda: None
        self.on_get: Callable[[str], object] = lambda path: None
        self.goes_on = threading.Event()
        self.held_in_vain = 0
        self.connected = 0
        self.lock = threading.Lock()

    def served_of(self, name: str) -> int:
        """How many bytes of an object were served."""
        return self._served_of[name]

    @property
    def options(self) -> dict[str, Any]:
        """fsspec storage options for it."""
        return {
            "key": "key", "secret": "secret", "endpoint_url": self.endpoint,
            "client_kwargs": {"region_name": "us-east-1"}, "skip_instance_cache": True,
        }  # fmt: skip

    @contextmanager
    def serving(self, *, by_https: bool = False) -> Iterator[FaultyS3]:
        """While inside, it listens on a port of its own; with the certificate CERTIFICATE if it is asked to."""
        with listening(self._handler(), by_https=by_https) as self.endpoint:
            yield self

    def _handler(self) -> type[Handler]:
        store = self

        class Serving(Handler):
            def handle(self) -> None:
                with store.lock:
                    store.connected += 1
                try:
                    super().handle()
                finally:
                    with store.lock:
                        store.connected -= 1

            def do_GET(self) -> None:
                if found := re.search(r"[?&]uploadId=(\w+)", self.path):
                    self._list_parts(found[1])
                    return
                with store.lock:
                    store.gets += 1
                    fault = store.faults.popleft() if store.faults else ""
                    if fault == "changed":
                        store.content, store.tag = bytes(reversed(store.content)), '"second"'
                    name = self.path.partition("?")[0]
                    content = store.contents.get(name.lstrip("/"), store.content)
                    content, tag, _ = store.objects.get(name, (content, store.tag, ""))
                store.on_get(name.lstrip("/"))
                if name.lstrip("/") in store.refused:
                    fault = "403"
                if fault == "reset":
                    self.close_connection = True
                    return
                if fault.isdigit():
                    self._say(int(fault), b"<Error><Code>Said</Code></Error>")
                    return
                if self.headers.get("If-Match", tag) != tag:
                    self._say(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                    return
                span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                first, last = (int(span[1]), min(int(span[2]), len(content) - 1)) if span else (0, len(content) - 1)
                if fault == "other range":
                    first, last = first + 1, last + 1
                headers = {"ETag": tag, "Content-Range": f"bytes {first}-{last}/{len(content)}"}
                if fault == "no range":
                    self._say(200, content, {"ETag": tag})
                    return
                self._say(206, content[first : last + 1], headers, cut=fault == "cut", halved=fault == "halved")

            def do_HEAD(self) -> None:
                found = store.objects.get(self.path.partition("?")[0])
                if found is None:
                    self._say(404, b"")
                    return
                self._say(200, found[0], {"ETag": found[1], "x-amz-meta-holdshort-writer": found[2]})

            def _list_parts(self, upload: str) -> None:
                """One a page, so that there are several."""
                after = re.search(r"part-number-marker=(\d+)", self.path)
                with store.lock:
                    parts = sorted(store.parts.get(upload, {}).items())
                left = [each for each in parts if after is None or each[0] > int(after[1])]
                listed = "".join(
                    f"<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag>"
                    + (f"<ChecksumCRC32C>{crc}</ChecksumCRC32C>" if crc else "") + "</Part>"
                    for number, (tag, crc) in left[:1]
                )  # fmt: skip
                further = f"<NextPartNumberMarker>{left[0][0]}</NextPartNumberMarker>" if len(left) > 1 else ""
                self._say(
                    200, f"<R><IsTruncated>{str(bool(further)).lower()}</IsTruncated>{further}{listed}</R>".encode()
                )

            def do_PUT(self) -> None:
                self._write("PUT")

            def do_POST(self) -> None:
                self._write("create" if re.search("[?&]uploads\\b", self.path) else "complete")

            def do_DELETE(self) -> None:
                self._write("abort")

            def _write(self, act: str) -> None:
                with store.lock:
                    store.writes.append(act)
                    waiting = store.faults_of[act]
                    fault = waiting.popleft() if waiting else ""
                length = int(self.headers.get("Content-Length", 0))
                if fault == "reset" or fault == "reset in mid-body":
                    self.rfile.read(length // 2 if fault != "reset" else 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.close_connection = True
                    return
                body = self.rfile.read(length)
                if fault == "flipped":
                    body = bytes([body[0] ^ 1]) + body[1:]
                if fault.isdigit():
                    self._say(int(fault), b"<Error><Code>Said</Code></Error>")
                    return
                if fault == "error in 200":
                    self._say(200, b"<Error><Code>InternalError</Code></Error>")
                    return
                with store.lock:
                    status, answer, headers = self._done(act, body)
                if fault == "lost":
                    store.on_lost()
                    self.close_connection = True
                    return
                self._say(status, answer, headers, cut=fault == "cut")

            def _done(self, act: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
                name, _, rest = self.path.partition("?")
                query = dict(parse_qsl(rest, keep_blank_values=True))
                upload = query.get("uploadId", "")
                if act == "create":
                    made = secrets.token_hex(8)
                    store.uploads[made], store.parts[made] = {}, {}
                    store.marks[made] = self.headers.get(_MARK, "")
                    return 200, f"<R><UploadId>{made}</UploadId></R>".encode(), {}
                if upload and upload not in store.uploads:
                    return 404, b"<Error><Code>NoSuchUpload</Code></Error>", {}
                if act == "abort":
                    del store.uploads[upload]
                    return 204, b"", {}
                md5 = hashlib.md5(body).digest()
                tag, sums = f'"{secrets.token_hex(16) if store.encrypts else md5.hex()}"', {}
                if act == "PUT":
                    crc = base64.b64encode(google_crc32c.value(body).to_bytes(4, "big")).decode()
                    if self.headers.get("Content-MD5") not in (None, base64.b64encode(md5).decode()):
                        return 400, b"<Error><Code>BadDigest</Code></Error>", {}
                    if store.sums == "crc32c" and _CRC in self.headers:
                        if self.headers[_CRC] != crc:
                            return 400, b"<Error><Code>BadDigest</Code></Error>", {}
                        sums = {_CRC: crc}
                    if upload:
                        number = int(query["partNumber"])
                        store.uploads[upload][number] = body
                        store.parts[upload][number] = (tag, sums.get(_CRC, ""))
                        return 200, b"", {"ETag": tag, **sums}
                if self.headers.get("If-None-Match") == "*" and name in store.objects:
                    return 412, b"<Error><Code>PreconditionFailed</Code></Error>", {}
                mark = self.headers.get(_MARK, "")
                if act == "complete":
                    asked = re.findall(r"<Part>(.*?)</Part>", unescape(body.decode()))
                    numbers = [int(_inner("PartNumber", each)) for each in asked]
                    there = store.parts[upload]
                    for number, each in zip(numbers, asked, strict=True):
                        tag, crc = there.get(number, ("", ""))
                        if tag != _inner("ETag", each) or _inner("ChecksumCRC32C", each) not in ("", crc):
                            return 400, b"<Error><Code>InvalidPart</Code></Error>", {}
                    parts = [store.uploads[upload][number] for number in numbers]
                    whole = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest()
                    body, tag, mark = b"".join(parts), f'"{whole}-{len(parts)}"', store.marks[upload]
                    del store.uploads[upload]
                store.objects[name] = (body, tag, mark)
                return 200, b"<CompleteMultipartUploadResult></CompleteMultipartUploadResult>", {"ETag": tag, **sums}

            def _say(
                self,
                status: int,
                body: bytes,
                headers: dict[str, str] | None = None,
                *,
                cut: bool = False,
                halved: bool = False,
            ) -> None:
                sent = 0 if self.command == "HEAD" else len(body) // 2 if cut else len(body)
                with store.lock:  # before it is sent, so that whoever has got it finds it counted
                    store.served_bytes += sent
                    store._served_of[self.path.partition("?")[0].lstrip("/")] += sent
                self.say(status, body, headers, cut=cut, between=self._hold if halved else None)

            def _hold(self) -> None:
                if not store.goes_on.wait(10.0):
                    with store.lock:
                        store.held_in_vain += 1

        return Serving
