"""A small Google Cloud Storage server (JSON API) that keeps what it promises, and fails as it is told.

The emulator that can be installed (servers.GcsEmulator) ignores preconditions and tells no generations, so what rests
on them is tested here.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from support.listening import Handler, listening

_OBJECT = re.compile(r"/(?:download/)?storage/v1/b/([^/]+)/o/([^/]+)")
_MOVE = re.compile(r"/storage/v1/b/[^/]+/o/([^/]+)/moveTo/o/([^/]+)")
_BUCKET = re.compile(r"/storage/v1/b/([^/]+)(/o|/storageLayout)?")
_UPLOAD = re.compile(r"/upload/storage/v1/b/([^/]+)/o")


@dataclass(frozen=True)
class _Object:
    generation: int
    content: bytes


class FaultyGcs:
    """Keeps objects in memory; each read of an object's bytes takes the next fault that waits, if there is one.

    Faults: a status ("503", "401"), "cut" (ends after half of the body), "reset" (no answer at all), "other range",
    "no range" (all of it, with status 200), "unpacked" (as a compressed object comes: whole, of no stated size).

    Args:
        bucket: the only one there is.
        token: what a request has to carry; "": nothing.
        keeps_versions: whether old generations can still be read.
        is_zonal: what is said of the bucket's location.

    Attributes:
        is_read_only: whether every change is refused.
        is_careless: whether conditions count for creating only.
    """

    def __init__(
        self, *, bucket: str = "bkt", token: str = "", keeps_versions: bool = False, is_zonal: bool = False
    ) -> None:
        self.bucket = bucket
        self.token = token
        self.keeps_versions = keeps_versions
        self.is_zonal = is_zonal
        self.page = 1000
        self.is_read_only = False
        self.is_careless = False
        self.faults: deque[str] = deque()
        self.asked: list[str] = []
        self.lock = threading.RLock()
        self._objects: dict[str, list[_Object]] = {}
        self._numbers = itertools.count()
        self._uploads: dict[str, tuple[str, Mapping[str, str], bytes]] = {}
        self._generation = time.time_ns() // 1000  # never the same again, on whichever port

    @property
    def options(self) -> dict[str, Any]:
        """fsspec storage options for it."""
        return {"token": "anon", "endpoint_url": self.endpoint}

    def put(self, key: str, content: bytes) -> None:
        """Write an object."""
        with self.lock:
            self._generation += 1
            older = self._objects.get(key, []) if self.keeps_versions else []
            self._objects[key] = [*older, _Object(self._generation, content)]

    def begun(self) -> list[str]:
        """The names of uploads in parts that were neither finished nor given up."""
        with self.lock:
            return [name for name, _, _ in self._uploads.values()]

    @contextmanager
    def serving(self) -> Iterator[FaultyGcs]:
        """While inside, it listens on a port of its own."""
        with listening(self._handler()) as self.endpoint:
            yield self

    # -- what there is -----------------------------------------------------------------------------------

    def found(self, key: str, generation: str | None) -> _Object | None:
        """An object, as it is or as it was."""
        kept = self._objects.get(key, [])
        if generation is None:
            return kept[-1] if kept else None
        return next((each for each in kept if str(each.generation) == generation), None)

    def breaks_condition(self, key: str, query: Mapping[str, str]) -> bool:
        """Whether ifGenerationMatch forbids it."""
        wanted = query.get("ifGenerationMatch")
        if self.is_careless and wanted != "0":
            return False
        now = self.found(key, None)
        return wanted is not None and wanted != ("0" if now is None else str(now.generation))

    def about(self, key: str, found: _Object) -> dict[str, Any]:
        """Its resource."""
        return {
            "kind": "storage#object", "bucket": self.bucket, "name": key, "size": str(len(found.content)),
            "generation": str(found.generation), "metageneration": "1", "etag": f"tag-{found.generation}",
            "updated": "2026-11-01T00:00:00.000Z", "timeCreated": "2026-11-01T00:00:00.000Z",
        }  # fmt: skip

    def listed(self, query: Mapping[str, str]) -> dict[str, Any]:
        """A page of a listing."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after, most = query.get("pageToken", ""), min(self.page, int(query.get("maxResults", self.page)))
        items: list[dict[str, Any]] = []
        prefixes: list[str] = []
        for key in sorted(self._objects):
            if not key.startswith(prefix) or key < query.get("startOffset", "") or (after and key <= after):
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folder = prefix + rest.partition(delimiter)[0] + delimiter
                if folder not in prefixes:
                    prefixes.append(folder)
                continue
            if len(items) == most:
                return {"items": items, "prefixes": prefixes, "nextPageToken": items[-1]["name"]}
            items.append(self.about(key, self._objects[key][-1]))
        return {"items": items, "prefixes": prefixes}

    # -- HTTP --------------------------------------------------------------------------------------------

    def _handler(self) -> type[Handler]:
        store = self

        class Serving(Handler):
            def parse_request(self) -> bool:
                if not super().parse_request():
                    return False
                parts = urlsplit(self.path)
                self.target = parts.path
                self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                store.asked.append(f"{self.command} {self.path}")
                if store.token and self.headers.get("Authorization") != f"Bearer {store.token}":
                    said = "Invalid Credentials" if "Authorization" in self.headers else "Anonymous caller may not."
                    self._refuse(401, said)
                    return False
                if store.is_read_only and self.command != "GET":
                    self._refuse(403, "You may not.")
                    return False
                return True

            def do_GET(self) -> None:
                if found := _OBJECT.fullmatch(self.target):
                    self._object(unquote(found[1]), unquote(found[2]))
                elif (found := _BUCKET.fullmatch(self.target)) is None:
                    self._refuse(404, "Not Found")
                elif unquote(found[1]) != store.bucket:
                    self._refuse(404, "The specified bucket does not exist.")
                elif found[2] == "/o":
                    with store.lock:
                        self._json(store.listed(self.query))
                elif found[2] == "/storageLayout":
                    self._json({"bucket": store.bucket, "locationType": "zone" if store.is_zonal else "region"})
                else:
                    self._json({"kind": "storage#bucket", "name": store.bucket})

            def _object(self, bucket: str, key: str) -> None:
                if bucket != store.bucket:
                    self._refuse(404, "The specified bucket does not exist.")
                    return
                is_media = self.query.get("alt") == "media"
                with store.lock:
                    fault = store.faults.popleft() if is_media and store.faults else ""
                    is_broken = store.breaks_condition(key, self.query)
                    found = store.found(key, self.query.get("generation"))
                if fault == "reset":
                    self.close_connection = True
                elif fault.isdigit():
                    self._refuse(int(fault), "Said.")
                elif is_broken:
                    self._refuse(412, "At least one of the pre-conditions you specified did not hold.")
                elif found is None:
                    self._refuse(404, f"No such object: {bucket}/{key}")
                elif is_media:
                    self._bytes(found, fault)
                else:
                    self._json(store.about(key, found))

            def _bytes(self, found: _Object, fault: str) -> None:
                content, headers = found.content, {"X-Goog-Generation": str(found.generation)}
                if fault == "unpacked":
                    self._chunked(content, headers)
                    return
                span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                if span is None or fault == "no range":
                    self.say(200, content, headers)
                    return
                first, last = int(span[1]), min(int(span[2] or len(content)), len(content) - 1)
                if first >= len(content):
                    self._refuse(416, "Request range not satisfiable")
                    return
                if fault == "other range":
                    first, last = first + 1, last + 1
                headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
                self.say(206, content[first : last + 1], headers, cut=fault == "cut")

            def do_POST(self) -> None:
                if self.target == "/batch/storage/v1":
                    self._batch()
                    return
                if "upload_id" in self.query:
                    self._chunk(self.query["upload_id"])
                    return
                if moved := _MOVE.fullmatch(self.target):
                    self._move(unquote(moved[1]), unquote(moved[2]))
                    return
                found = _UPLOAD.fullmatch(self.target)
                if found is None or unquote(found[1]) != store.bucket:
                    self._refuse(404, "The specified bucket does not exist.")
                elif self.query["uploadType"] == "multipart":
                    boundary = re.search('boundary="?([^";]+)', self.headers["Content-Type"])
                    assert boundary is not None
                    _, about, content = self.body.split(f"--{boundary[1]}".encode(), 2)
                    content = content.rpartition(f"\n--{boundary[1]}--".encode())[0]
                    name = json.loads(about.replace(b"\r\n", b"\n").split(b"\n\n", 1)[1])["name"]
                    self._store(name, content.split(b"\n\n", 1)[1])
                elif self.query["uploadType"] == "media":
                    self._store(self.query["name"], self.body)
                else:
                    number = str(next(store._numbers))
                    store._uploads[number] = (self.query["name"], self.query, b"")
                    location = f"{store.endpoint}{self.target}?uploadType=resumable&upload_id={number}"
                    self.say(200, b"", {"Location": location})

            def do_PUT(self) -> None:
                self._chunk(self.query["upload_id"])

            def _chunk(self, number: str) -> None:
                """More of an upload that comes in parts, or its end."""
                name, asked, before = store._uploads[number]
                store._uploads[number] = (name, asked, before + self.body)
                if self.headers["Content-Range"].endswith("/*"):
                    self.say(308, b"", {"Range": f"bytes=0-{len(before) + len(self.body) - 1}"})
                    return
                self.query = dict(asked)
                with store.lock:
                    del store._uploads[number]
                self._store(name, before + self.body)

            def _move(self, key: str, to: str) -> None:
                with store.lock:
                    found = store.found(key, None)
                    if found is None:
                        self._refuse(404, f"No such object: {key}")
                        return
                    self._store(to, found.content)
                    del store._objects[key]

            def _store(self, key: str, content: bytes) -> None:
                with store.lock:
                    if store.breaks_condition(key, self.query):
                        self._refuse(412, "At least one of the pre-conditions you specified did not hold.")
                        return
                    store.put(key, content)
                    self._json(store.about(key, store._objects[key][-1]))

            def do_DELETE(self) -> None:
                if "upload_id" in self.query:
                    store._uploads.pop(self.query["upload_id"], None)
                    self.say(204, b"")
                    return
                found = _OBJECT.fullmatch(self.target)
                with store.lock:
                    if found is None or store._objects.pop(unquote(found[2]), None) is None:
                        self._refuse(404, "No such object")
                        return
                self.say(204, b"")

            def _batch(self) -> None:
                answers: list[str] = []
                for target in re.findall(r"DELETE (\S+) HTTP/1.1", self.body.decode()):
                    found = _OBJECT.fullmatch(urlsplit(target).path)
                    with store.lock:
                        gone = found is not None and store._objects.pop(unquote(found[2]), None) is not None
                    status = "204 No Content" if gone else "404 Not Found"
                    answers.append(f"--x\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 {status}\r\n\r\n")
                body = "".join(answers) + "--x--"
                self.say(200, body.encode(), {"Content-Type": "multipart/mixed; boundary=x"})

            def _json(self, value: Any) -> None:
                self.say(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

            def _refuse(self, status: int, message: str) -> None:
                self.say(status, json.dumps({"error": {"code": status, "message": message}}).encode())

            def _chunked(self, content: bytes, headers: dict[str, str]) -> None:
                self.send_response(200)
                for name, value in {**headers, "Transfer-Encoding": "chunked"}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content))

        return Serving
