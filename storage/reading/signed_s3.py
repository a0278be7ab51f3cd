"""S3 by signed URLs: s3fs finds credentials, region and endpoint, and botocore signs."""

from __future__ import annotations

import os
import re
import threading
import time
import urllib.request
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPMessage
from typing import Any, cast
from urllib.parse import quote, urlencode, urlsplit

from .http_origin import Address, NotByHttp
from .origin import Version

_SIGNED_S = 3600
_RESIGN_S = 600.0
_NEW_S = 30.0
_KEPT_URLS = 8192
_CODE = re.compile(r"<Code>([^<]{1,100})</Code>")


@dataclass(frozen=True, slots=True)
class _Signer:
    """How URLs of a bucket look, and who signs them; None: nobody, the bucket is public."""

    server: tuple[str, str]
    prefix: str
    sign: Callable[[str], str] | None
    made_at: float

    def address(self, key: str, query: str, headers: dict[str, str]) -> Address:
        target = f"{self.prefix}/{quote(key, safe='/~-_.')}" + (f"?{query}" if query else "")
        if self.sign is not None:
            signed = urlsplit(self.sign(f"{self.server[0]}://{self.server[1]}{target}"))
            target = f"{signed.path}?{signed.query}"
        return Address(self.server, target, headers)


class SignedS3:
    """The server of one s3fs file system."""

    scheme = "s3"
    authorities_by = "AWS_CA_BUNDLE"

    def __init__(self, fs: Any) -> None:
        self._fs = fs
        self._lock = threading.Lock()
        self._signers: dict[str, _Signer] = {}
        self._kept: OrderedDict[tuple[str, str], tuple[float, Address]] = OrderedDict()

    @staticmethod
    def suits(fs: Any) -> bool:
        """Whether all that was configured for s3fs holds for signed URLs too."""
        client = set(fs.client_kwargs) - {"region_name", "endpoint_url", "use_ssl", "aws_access_key_id",
                                          "aws_secret_access_key", "aws_session_token"}  # fmt: skip
        config = set(fs.config_kwargs) - {"max_pool_connections", "connect_timeout", "read_timeout", "retries", "s3"}
        encryption = [key for key in fs.s3_additional_kwargs if key.startswith("SSECustomer")]
        through_proxy = urllib.request.getproxies().keys() & {"http", "https", "all"}
        return not (client or config or encryption or through_proxy or fs.req_kw or fs.asynchronous)

    def address(self, path: str, version: Version | None) -> Address:
        if not self._can_sign(path):
            raise NotByHttp(path)
        if version is None:
            return self._signed(path)
        if version.kept:
            return self._signed(path, version.kept)
        found = self._signed(path)
        return Address(found.server, found.target, {"If-Match": version.tag})

    def folder_address(self, path: str) -> Address:
        bucket, _, key = path.partition("/")
        query = urlencode({"list-type": "2", "max-keys": "1", "prefix": key.rstrip("/") + "/"})
        return self._signer(bucket).address("", query, {})

    def holds_any(self, answer: str) -> bool:
        return "<Contents>" in answer

    def version(self, size: int, headers: HTTPMessage) -> Version:
        kept = headers.get("x-amz-version-id", "")
        return Version(size, headers.get("ETag", ""), "" if kept == "null" else kept)

    def is_of(self, version: Version, headers: HTTPMessage) -> bool:
        return headers.get("ETag", "") == version.tag

    def reason(self, answer: str) -> str:
        said = _CODE.search(answer)
        return "" if said is None else said[1]

    def lacks_bucket(self, reason: str) -> bool:
        return reason == "NoSuchBucket"

    def renew(self, path: str, status: int) -> bool:
        """Whether the credentials may have run out, so that newer ones are worth a try."""
        signer = self._signers.pop(path.partition("/")[0], None)
        with self._lock:
            self._kept.clear()
        return signer is not None and time.monotonic() - signer.made_at > _NEW_S

    def who(self, path: str) -> str:
        if self._fs.anon:
            return "It was asked without credentials (anon=True)."
        return "Check the credentials, and what they allow."

    def authorities(self) -> str | None:
        return os.environ.get(self.authorities_by)  # as botocore does

    # -- inside ------------------------------------------------------------------------------------------

    def _can_sign(self, path: str) -> bool:
        """Not for directory buckets, whose signatures differ, access points, and versions that a path names."""
        bucket, _, version_id = self._fs.split_path(path)
        return not (version_id or bucket.startswith("arn:") or bucket.endswith("--x-s3"))

    def _signed(self, path: str, version_id: str = "") -> Address:
        now, which = time.monotonic(), (path, version_id)
        with self._lock:
            kept = self._kept.get(which)
            if kept is not None and now < kept[0]:
                return kept[1]
        bucket, _, key = path.partition("/")
        found = self._signer(bucket).address(key, urlencode({"versionId": version_id}) if version_id else "", {})
        with self._lock:
            self._kept[which] = (now + _RESIGN_S, found)
            while len(self._kept) > _KEPT_URLS:
                self._kept.popitem(last=False)
        return found

    def _signer(self, bucket: str) -> _Signer:
        signer = self._signers.get(bucket)
        if signer is None or time.monotonic() - signer.made_at > _RESIGN_S:
            signer = self._signers[bucket] = self._new_signer(bucket)
        return signer

    def _new_signer(self, bucket: str) -> _Signer:
        from botocore import auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials
        from botocore.exceptions import NoCredentialsError, PartialCredentialsError
        from fsspec.asyn import sync  # pyright: ignore[reportUnknownVariableType]

        try:
            example = urlsplit(cast("str", self._fs.url(f"{bucket}/x", expires=_SIGNED_S)))
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise PermissionError(
                f"s3://{bucket} can't be read, since there are no credentials for it ({error}). Set AWS_ACCESS_KEY_ID "
                f"and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or pass key and secret as options of s3; for a public "
                f"bucket, pass anon=True."
            ) from error
        prefix = example.path.removesuffix("/x")
        server = (example.scheme, example.netloc)
        if self._fs.anon:
            return _Signer(server, prefix, None, time.monotonic())
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

        return _Signer(server, prefix, sign, time.monotonic())
