"""Who signs requests to a bucket, and how its URLs look.

s3fs finds credentials, region and endpoint, and botocore signs. What s3fs does per request besides (an event loop that
all requests share, two copies of each byte) is left out: that is what bounds its speed.
"""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, urlsplit

SIGNED_S = 3600
"""For so long a signed URL is valid."""
RESIGN_S = 600.0
"""After so long it is not used any more: credentials may end before it does."""
_NEW_S = 30.0


@dataclass(frozen=True, slots=True)
class Signer:
    """How URLs of a bucket look, and who signs them.

    Attributes:
        origin: scheme, and host with port.
        sign: (method, URL, headers) → signed URL; None: nobody, the bucket is public.
    """

    origin: tuple[str, str]
    prefix: str
    sign: Callable[[str, str, Mapping[str, str]], str] | None
    made_at: float

    def target(self, method: str, key: str, query: str = "", headers: Mapping[str, str] | None = None) -> str:
        """Path and query of a request, which then has to carry exactly these headers, if any."""
        target = f"{self.prefix}/{quote(key, safe='/~-_.')}" + (f"?{query}" if query else "")
        if self.sign is None:
            return target
        signed = urlsplit(self.sign(method, f"{self.origin[0]}://{self.origin[1]}{target}", headers or {}))
        return f"{signed.path}?{signed.query}"


class Signers:
    """The signers of one s3fs file system's buckets, each made when it is needed, and anew every ten minutes."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs
        self._known: dict[str, Signer] = {}

    def of(self, bucket: str) -> Signer:
        """The signer for a bucket. Raises PermissionError if there are no credentials."""
        signer = self._known.get(bucket)
        if signer is None or time.monotonic() - signer.made_at > RESIGN_S:
            signer = self._known[bucket] = self._signer(bucket)
        return signer

    def forget(self, bucket: str) -> bool:
        """Whether its credentials may have run out, so that newer ones are worth a try."""
        signer = self._known.pop(bucket, None)
        return signer is not None and time.monotonic() - signer.made_at > _NEW_S

    def _signer(self, bucket: str) -> Signer:
        from botocore import auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials
        from botocore.exceptions import NoCredentialsError, PartialCredentialsError
        from fsspec.asyn import sync  # pyright: ignore[reportUnknownVariableType]

        try:
            example = urlsplit(cast("str", self._fs.url(f"{bucket}/x", expires=SIGNED_S)))
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise PermissionError(
                f"s3://{bucket} can't be used, since there are no credentials for it ({error}). Set AWS_ACCESS_KEY_ID "
                f"and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or pass key and secret as options of s3; for a public "
                f"bucket, pass anon=True."
            ) from error
        prefix = example.path.removesuffix("/x")
        origin = (example.scheme, example.netloc)
        if self._fs.anon:
            return Signer(origin, prefix, None, time.monotonic())
        fs = self._fs

        async def found() -> tuple[Any, str]:
            client = await fs.get_s3(bucket)
            if fs.key:
                return Credentials(fs.key, fs.secret, fs.token), client.meta.region_name
            found = await fs.session.get_credentials()
            return await found.get_frozen_credentials(), client.meta.region_name

        credentials, region = cast("tuple[Any, str]", sync(fs.loop, found))

        def sign(method: str, url: str, headers: Mapping[str, str]) -> str:
            request: Any = AWSRequest(method, url, headers=dict(headers))
            untyped: Any = auth
            untyped.S3SigV4QueryAuth(credentials, "s3", region, expires=SIGNED_S).add_auth(request)
            return cast("str", request.url)

        return Signer(origin, prefix, sign, time.monotonic())


def suits(fs: Any) -> bool:
    """Whether all that was configured for s3fs holds for signed URLs too."""
    client = set(fs.client_kwargs) - {"region_name", "endpoint_url", "use_ssl", "aws_access_key_id",
                                      "aws_secret_access_key", "aws_session_token"}  # fmt: skip
    config = set(fs.config_kwargs) - {"max_pool_connections", "connect_timeout", "read_timeout", "retries", "s3"}
    encryption = [key for key in fs.s3_additional_kwargs if key.startswith("SSECustomer")]
    through_proxy = urllib.request.getproxies().keys() & {"http", "https", "all"}
    return not (client or config or encryption or through_proxy or fs.req_kw or fs.asynchronous)


def can_sign(fs: Any, path: str) -> bool:
    """Not for directory buckets, whose signatures differ, access points, and versions that a path names."""
    bucket, _, version_id = fs.split_path(path)
    return not (version_id or bucket.startswith("arn:") or bucket.endswith("--x-s3"))
