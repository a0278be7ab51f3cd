"""S3 by signed URLs: bytes go from the socket straight into the reader's memory.

s3fs finds credentials, region and endpoint, and botocore signs. What s3fs does per request besides (an event loop that
all requests share, two copies of each byte) is left out: that is what bounds its speed.
"""

from __future__ import annotations

import logging
import os
import random
import re
import threading
import time
import urllib.request
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any, cast
from urllib.parse import quote, urlsplit

from ..errors import ObjectChanged, StoreUnavailable
from .any_file_system import AnyFileSystem
from .connections import Broken, Connections
from .origin import Progress, Version

log = logging.getLogger(__name__)

_SIGNED_S = 3600
_RESIGN_S = 600.0
_NEW_S = 30.0
_KEPT_URLS = 8192
_CHUNK_BYTES = 256 * 1024
_TRIES = 6
_PAUSE_FIRST_S, _PAUSE_MOST_S = 0.1, 5.0
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_PASSING = frozenset((408, 429, 500, 502, 503, 504))


class _Again(Exception):
    """Raised for what may well succeed the next time."""


@dataclass(frozen=True, slots=True)
class _Signer:
    """How URLs of a bucket look, and who signs them; None: nobody, the bucket is public."""

    origin: tuple[str, str]
    prefix: str
    sign: Callable[[str], str] | None
    made_at: float


class SignedS3:
    """Reads objects of one s3fs file system.

    Args:
        on_refused: called when the store said that it is too much (503, 429).
    """

    def __init__(self, fs: Any, on_refused: Callable[[], None]) -> None:
        self._fs = fs
        self._on_refused = on_refused
        self._lock = threading.Lock()
        self._signers: dict[str, _Signer] = {}
        self._pools: dict[tuple[str, str], Connections] = {}
        self._urls: OrderedDict[str, tuple[float, _Signer, str]] = OrderedDict()
        self._by_methods = AnyFileSystem(fs)

    @staticmethod
    def suits(fs: Any) -> bool:
        """Whether all that was configured for s3fs holds for signed URLs too."""
        client = set(fs.client_kwargs) - {"region_name", "endpoint_url", "use_ssl", "aws_access_key_id",
                                          "aws_secret_access_key", "aws_session_token"}  # fmt: skip
        config = set(fs.config_kwargs) - {"max_pool_connections", "connect_timeout", "read_timeout", "retries", "s3"}
        encryption = [key for key in fs.s3_additional_kwargs if key.startswith("SSECustomer")]
        through_proxy = urllib.request.getproxies().keys() & {"http", "https", "all"}
        return not (client or config or encryption or through_proxy or fs.req_kw or fs.asynchronous)

    def first(self, path: str, length: int) -> tuple[Version, bytes]:
        if not self._can_sign(path):
            return self._by_methods.first(path, length)
        wanted = max(1, length)

        def once(_: int) -> tuple[Version, bytes]:
            with self._get(path, {"Range": f"bytes=0-{wanted - 1}"}) as answer:
                if answer.status == 416:  # only an empty object has no first byte
                    answer.read()
                    return Version(0, answer.headers.get("ETag", "")), b""
                self._check(answer, path, is_first=True)
                version = Version(self._size(answer), answer.headers.get("ETag", ""))
                data = bytearray(min(length, version.size))
                got = _fill(answer, memoryview(data), lambda _: None)
                if got < len(data):
                    raise _Again(f"the answer ended after {got} of {len(data)} bytes")
                return version, bytes(data)

        return self._patiently(path, once)

    def read_into(self, path: str, version: Version, start: int, into: memoryview, progress: Progress) -> None:
        if not self._can_sign(path):
            self._by_methods.read_into(path, version, start, into, progress)
            return
        got = 0

        def once(_: int) -> None:
            nonlocal got
            begin, end = start + got, start + len(into) - 1
            with self._get(path, {"Range": f"bytes={begin}-{end}", "If-Match": version.tag}) as answer:
                self._check(answer, path, is_first=False)
                self._check_range(answer, path, version, begin, end)
                before = got

                def came(more: int) -> None:
                    nonlocal got  # what has come is right, so another try goes on behind it
                    got = before + more
                    progress(got)

                _fill(answer, into[before:], came)
            if got < len(into):
                raise _Again(f"the answer ended after {got} of {len(into)} bytes")

        if len(into):
            self._patiently(path, once)

    def close(self) -> None:
        with self._lock:
            pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            pool.close()

    # -- inside ------------------------------------------------------------------------------------------

    def _can_sign(self, path: str) -> bool:
        """Not for directory buckets, whose signatures differ, access points, and versions that a path names."""
        bucket, _, version_id = self._fs.split_path(path)
        return not (version_id or bucket.startswith("arn:") or bucket.endswith("--x-s3"))

    def _patiently(self, path: str, once: Callable[[int], Any]) -> Any:
        pause, tried = _PAUSE_FIRST_S, 0
        while True:
            try:
                return once(tried)
            except (Broken, _Again) as error:
                tried += 1
                if tried >= _TRIES:
                    raise StoreUnavailable(f"s3://{path} can't be read, after {tried} tries: {error}") from error
                log.info("s3://%s: %s; trying again", path, error)
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, guards nothing
            pause = min(_PAUSE_MOST_S, pause * 2)

    def _get(self, path: str, headers: dict[str, str]) -> AbstractContextManager[HTTPResponse]:
        signer, target = self._target(path)
        with self._lock:
            pool = self._pools.get(signer.origin)
            if pool is None:
                authorities = os.environ.get("AWS_CA_BUNDLE")  # as botocore does
                pool = self._pools[signer.origin] = Connections(signer.origin, authorities=authorities)
        return pool.get(target, headers)

    def _check(self, answer: HTTPResponse, path: str, *, is_first: bool) -> None:
        if answer.status in (200, 206):
            return
        text = answer.read(4096).decode(errors="replace")
        said = re.search(r"<Code>([^<]{1,100})</Code>", text)
        what = f"status {answer.status}" + (f" ({said[1]})" if said else "")
        if answer.status in (404, 412):
            if is_first:
                raise FileNotFoundError(f"s3://{path} does not exist: {what}")
            raise ObjectChanged(f"s3://{path}")
        with self._lock:
            self._urls.pop(path, None)
        if answer.status in _PASSING:
            if answer.status in (429, 503):
                self._on_refused()
            raise _Again(what)
        if answer.status in (401, 403):
            if self._forget_signer(path):
                raise _Again(what)
            raise PermissionError(f"s3://{path} may not be read: {what}. Check the credentials, and what they allow.")
        raise StoreUnavailable(f"s3://{path} can't be read: {what}")

    @staticmethod
    def _size(answer: HTTPResponse) -> int:
        if answer.status == 200:
            return int(answer.headers["Content-Length"])
        found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if found is None:
            raise _Again(f"it answered with the range {answer.headers.get('Content-Range')!r}")
        return int(found[3])

    @staticmethod
    def _check_range(answer: HTTPResponse, path: str, version: Version, begin: int, end: int) -> None:
        if answer.headers.get("ETag", "") != version.tag:
            raise ObjectChanged(f"s3://{path}")
        if answer.status == 200 and begin == 0 and end + 1 == version.size:
            return
        if answer.headers.get("Content-Range") != f"bytes {begin}-{end}/{version.size}":
            raise StoreUnavailable(
                f"s3://{path}: the store was asked for bytes {begin} to {end} and answered with "
                f"{answer.headers.get('Content-Range')!r}; it does not serve ranges as S3 does"
            )

    def _forget_signer(self, path: str) -> bool:
        """Whether its credentials may have run out, so that newer ones are worth a try."""
        bucket = path.partition("/")[0]
        signer = self._signers.pop(bucket, None)
        return signer is not None and time.monotonic() - signer.made_at > _NEW_S

    def _target(self, path: str) -> tuple[_Signer, str]:
        now = time.monotonic()
        with self._lock:
            kept = self._urls.get(path)
            if kept is not None and now < kept[0]:
                return kept[1], kept[2]
        bucket, _, key = path.partition("/")
        signer = self._signers.get(bucket)
        if signer is None or now - signer.made_at > _RESIGN_S:
            signer = self._signers[bucket] = self._signer(bucket)
        target = f"{signer.prefix}/{quote(key, safe='/~-_.')}"
        if signer.sign is not None:
            signed = urlsplit(signer.sign(f"{signer.origin[0]}://{signer.origin[1]}{target}"))
            target = f"{signed.path}?{signed.query}"
        with self._lock:
            self._urls[path] = (now + _RESIGN_S, signer, target)
            while len(self._urls) > _KEPT_URLS:
                self._urls.popitem(last=False)
        return signer, target

    def _signer(self, bucket: str) -> _Signer:
        from botocore import auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials
        from fsspec.asyn import sync  # pyright: ignore[reportUnknownVariableType]

        example = urlsplit(cast("str", self._fs.url(f"{bucket}/x", expires=_SIGNED_S)))
        prefix = example.path.removesuffix("/x")
        origin = (example.scheme, example.netloc)
        if self._fs.anon:
            return _Signer(origin, prefix, None, time.monotonic())
        fs = self._fs

        async def found() -> tuple[Any, str]:
            client = await fs.get_s3(bucket)
            if fs.key:
                return Credentials(fs.key, fs.secret, fs.token), client.meta.region_name
            found = await fs.session.get_credentials()
            return await found.get_frozen_credentials(), client.meta.region_name

        credentials, region = cast("tuple[Any, str]", sync(fs.loop, found))

        def sign(url: str) -> str:
            request: Any = AWSRequest("GET", url)
            untyped: Any = auth
            untyped.S3SigV4QueryAuth(credentials, "s3", region, expires=_SIGNED_S).add_auth(request)
            return cast("str", request.url)

        return _Signer(origin, prefix, sign, time.monotonic())


def _fill(answer: HTTPResponse, into: memoryview, progress: Progress) -> int:
    """Read up to the end of the buffer or of the answer; returns how many bytes came."""
    got = 0
    while got < len(into):
        more = answer.readinto(into[got : got + _CHUNK_BYTES])
        if not more:
            break
        got += more
        progress(got)
    return got
