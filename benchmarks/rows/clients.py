"""Clients of the store, as several rows use them; each has found its credentials and connected when it is returned."""

from __future__ import annotations

import asyncio
import http.client
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from .far_store import MIB, gcs_options, options

PART = 8 * MIB
Span = tuple[str, int, int]
"""(key, start, end)"""


def holdshort(profile: str, endpoint: str, *, protocol: str = "s3", **values: Any) -> Any:
    import fsspec

    target = gcs_options(endpoint) if protocol == "gs" else options(endpoint)
    return connected(fsspec.filesystem(profile, target_protocol=protocol, target_options=target, **values))


def s3fs(endpoint: str) -> Any:
    import fsspec

    return connected(fsspec.filesystem("s3", **options(endpoint)))


def gcsfs(endpoint: str) -> Any:
    import fsspec

    return connected(fsspec.filesystem("gcs", **gcs_options(endpoint)))


def connected(fs: Any) -> Any:
    fs.cat_file("bucket/another", start=0, end=1)
    return fs


def boto3(endpoint: str) -> Any:
    import boto3 as package
    from botocore.config import Config

    client = package.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="key", aws_secret_access_key="secret",
        region_name="us-east-1", config=Config(max_pool_connections=64),
    )  # fmt: skip
    client.get_object(Bucket="bucket", Key="another", Range="bytes=0-0")["Body"].read()
    return client


def obstore(endpoint: str) -> Any:
    from obstore.store import S3Store

    store: Any = S3Store(
        "bucket", endpoint=endpoint, access_key_id="key", secret_access_key="secret", region="us-east-1",
        virtual_hosted_style_request=False, client_options={"allow_http": True},
    )  # fmt: skip
    store.get_range("another", start=0, end=1)
    return store


def s3torchconnector(endpoint: str) -> Any:
    """The client that its readers use."""
    os.environ.update(AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret")
    from s3torchconnectorclient._mountpoint_s3_client import MountpointS3Client

    return MountpointS3Client(region="us-east-1", endpoint=endpoint, force_path_style=True)


def parts(key: str, size: int) -> list[Span]:
    return [(key, start, min(start + PART, size)) for start in range(0, size, PART)]


async def by_hand(store: Any, at_once: int, wanted: Sequence[Span]) -> memoryview:
    """What an expert writes: so many of obstore's requests at once, straight into one buffer."""
    gate, whole = asyncio.Semaphore(at_once), memoryview(bytearray(sum(end - start for _, start, end in wanted)))

    async def one(at: int, key: str, start: int, end: int) -> None:
        async with gate:
            found = await store.get_range_async(key, start=start, end=end)
            whole[at : at + end - start] = memoryview(found).cast("B")

    places, at = [], 0
    for key, start, end in wanted:
        places.append(one(at, key, start, end))
        at += end - start
    await asyncio.gather(*places)
    return whole


def by_threads(wanted: Sequence[int], work: Callable[[int, http.client.HTTPConnection], None], endpoint: str) -> None:
    """The limit: 32 threads of the standard library with a connection each, which share out what is wanted."""
    todo, lock = list(wanted), threading.Lock()

    def one() -> None:
        connection = http.client.HTTPConnection(endpoint.removeprefix("http://"))
        while True:
            with lock:
                if not todo:
                    connection.close()
                    return
                start = todo.pop(0)
            work(start, connection)

    threads = [threading.Thread(target=one) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def read_at_the_limit(endpoint: str, path: str, whole: memoryview) -> int:
    """All of an object into one buffer."""
    size = len(whole)

    def part(start: int, connection: http.client.HTTPConnection) -> None:
        end = min(size, start + PART)
        connection.request("GET", f"/{path}", headers={"Range": f"bytes={start}-{end - 1}"})
        answer = connection.getresponse()
        while start < end:
            start += answer.readinto(whole[start:end])
        answer.read()

    by_threads(range(0, size, PART), part, endpoint)
    return size


def touched_buffer(size: int) -> memoryview:
    """Memory of which no page is new."""
    whole = memoryview(bytearray(size))
    whole[::4096] = bytes(len(range(0, size, 4096)))
    return whole
