"""Overwriting an object only if nobody else has: If-Match on S3, ifGenerationMatch on Google Cloud Storage."""

from __future__ import annotations

import errno
from typing import Any, cast
from urllib.parse import quote


def read_tagged(fs: Any, protocol: str, target: str) -> tuple[bytes, str]:
    """An object's bytes and its tag, by one request; "" where the store does not tell any."""
    if protocol in ("gs", "gcs"):
        headers, data = fs.call("GET", fs.url(target))
        return cast("bytes", data), cast("str", headers.get("X-Goog-Generation", ""))
    from fsspec.asyn import sync  # pyright: ignore[reportUnknownVariableType]

    bucket, key, _ = fs.split_path(target)

    async def got() -> tuple[bytes, str]:
        answer = await fs._call_s3("get_object", Bucket=bucket, Key=key)
        async with answer["Body"] as body:
            return await body.read(), answer.get("ETag", "")

    return cast("tuple[bytes, str]", sync(fs.loop, got))


def replace_if(fs: Any, protocol: str, target: str, data: bytes, tag: str) -> None:
    """One conditional request.

    Raises:
        Exception: the file system's own, such as for a condition that does not hold.
    """
    bucket, key, _ = fs.split_path(target)
    if protocol in ("gs", "gcs"):
        where = f"{fs._location}/upload/storage/v1/b/{quote(bucket, safe='')}/o"
        headers = {"Content-Type": "application/octet-stream"}
        fs.call("POST", where, uploadType="media", name=key, ifGenerationMatch=tag, data=data, headers=headers)
    else:
        fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, IfMatch=tag)


def is_unknown(error: Exception) -> bool:
    """Whether the store said that it knows no such condition."""
    return isinstance(error, OSError) and error.errno == errno.ENOSYS
