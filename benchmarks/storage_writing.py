"""Writing to a store that is 40 ms and 90 MB/s per connection away: with a profile, and beside others.

    python benchmarks/storage_writing.py [--quick]

Each arm runs in a process of its own, which has imported, connected and made its bytes before its time begins; arms
take turns in an order of their own in each repeat. The limit is a loop of 32 threads that PUT slices of one buffer with
the standard library. "MiB more" is what the process held above what it had before, the bytes that it writes apart. It
takes about 4 minutes, with --quick half a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
from importlib.util import find_spec
from typing import Any

import reporting
import storage
from storage import FIRST_BYTE_MS, MB_PER_S, MIB, SEED, Work

PATH = "bucket/written"
PART = 8 * MIB


# -- arms: each connects, then returns what is to be timed, which returns how many bytes it has written -------------


def holdshort(endpoint: str, data: bytes) -> Work:
    return _opened(_holdshort(endpoint), data)


def holdshort_pipe(endpoint: str, data: bytes) -> Work:
    return _piped(_holdshort(endpoint), data)


def s3fs(endpoint: str, data: bytes) -> Work:
    return _opened(_s3fs(endpoint), data)


def s3fs_pipe(endpoint: str, data: bytes) -> Work:
    return _piped(_s3fs(endpoint), data)


def gcsfs(endpoint: str, data: bytes) -> Work:
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # or it would look for a server of another kind
    import fsspec

    fs: Any = fsspec.filesystem("gcs", token="anon", endpoint_url=endpoint, project="none")
    return _opened(fs, data, connect=False)


def boto3(endpoint: str, data: bytes) -> Work:
    return _boto3(endpoint, data)


def boto3_tuned(endpoint: str, data: bytes) -> Work:
    return _boto3(endpoint, data, max_concurrency=32, multipart_chunksize=PART)


def obstore(endpoint: str, data: bytes) -> Work:
    """By hand: as many parts at once as pay."""
    from obstore.store import S3Store

    store = S3Store(
        "bucket", endpoint=endpoint, access_key_id="key", secret_access_key="secret", region="us-east-1",
        virtual_hosted_style_request=False, client_options={"allow_http": True},
    )  # fmt: skip
    store.put("another", b"x")

    def run() -> int:
        store.put("written", data, use_multipart=True, chunk_size=PART, max_concurrency=32)
        return len(data)

    return run


def limit(endpoint: str, data: bytes) -> Work:
    import http.client

    whole, host = memoryview(data), endpoint.removeprefix("http://")

    def run() -> int:
        todo, lock = list(range(0, len(data), PART)), threading.Lock()

        def one() -> None:
            connection = http.client.HTTPConnection(host)
            while True:
                with lock:
                    if not todo:
                        connection.close()
                        return
                    start = todo.pop(0)
                connection.request("PUT", f"/{PATH}?partNumber={start // PART + 1}", body=whole[start : start + PART])
                connection.getresponse().read()

        threads = [threading.Thread(target=one) for _ in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(data)

    return run


ARMS = {
    "holdshort open()": holdshort,
    "holdshort pipe_file()": holdshort_pipe,
    "s3fs open()": s3fs,
    "s3fs pipe_file()": s3fs_pipe,
    "gcsfs open()": gcsfs,
    "boto3": boto3,
    "boto3 ×32": boto3_tuned,
    "obstore ×32": obstore,
    "limit": limit,
}
NEEDS = {"gcsfs open()": "gcsfs", "boto3": "boto3", "boto3 ×32": "boto3", "obstore ×32": "obstore"}


def _holdshort(endpoint: str) -> Any:
    import fsspec

    return fsspec.filesystem("checkpoint", target_protocol="s3", target_options=_options(endpoint))


def _s3fs(endpoint: str) -> Any:
    import fsspec

    return fsspec.filesystem("s3", **_options(endpoint))


def _options(endpoint: str) -> dict[str, Any]:
    return {"key": "key", "secret": "secret", "endpoint_url": endpoint, "client_kwargs": {"region_name": "us-east-1"}}


def _opened(fs: Any, data: bytes, *, connect: bool = True) -> Work:
    """By open() and writes of 1 MiB."""
    if connect:
        fs.pipe_file("bucket/another", b"x")  # it has found its credentials and made its client now
    whole = memoryview(data)

    def run() -> int:
        with fs.open(PATH, "wb") as file:
            for start in range(0, len(data), MIB):
                file.write(whole[start : start + MIB])
        return len(data)

    return run


def _piped(fs: Any, data: bytes) -> Work:
    fs.pipe_file("bucket/another", b"x")

    def run() -> int:
        fs.pipe_file(PATH, data)
        return len(data)

    return run


def _boto3(endpoint: str, data: bytes, **transfer: Any) -> Work:
    import boto3 as package
    from boto3.s3.transfer import TransferConfig
    from botocore.config import Config

    client = package.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="key", aws_secret_access_key="secret",
        region_name="us-east-1", config=Config(max_pool_connections=40),
    )  # fmt: skip
    client.put_object(Bucket="bucket", Key="another", Body=b"x")
    # From a file in memory: of what is no file it never sends more than ten parts at once.
    file = tempfile.NamedTemporaryFile(dir="/dev/shm")  # noqa: SIM115 - removed with this process
    file.write(data)
    file.flush()

    def run() -> int:
        client.upload_file(file.name, "bucket", "written", Config=TransferConfig(**transfer))
        return len(data)

    return run


# -- running ---------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the bytes, one repeat")
    parser.add_argument("--only", help="arms to run, separated by commas")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--endpoint", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.arm:
        work = ARMS[given.arm](given.endpoint, random.Random(SEED).randbytes(MIB) * (given.size // MIB))
        before = storage.peak_mib()
        storage.stats(given.endpoint)
        storage.timed(work, before)
        return
    size, repeats = (256 * MIB, 1) if given.quick else (1024 * MIB, 3)
    repeats = given.repeats or repeats
    chosen = given.only.split(",") if given.only else list(ARMS)
    arms = [arm for arm in ARMS if arm in chosen and (arm not in NEEDS or find_spec(NEEDS[arm]))]
    found: dict[str, list[dict[str, float]]] = {}
    order = random.Random(SEED)
    with storage.store(MIB) as endpoint:
        for repeat in range(repeats):
            for arm in order.sample(arms, len(arms)):
                one = run(arm, endpoint, size)
                found.setdefault(arm, []).append(one)
                sys.stderr.write(f"repeat {repeat + 1}/{repeats}, {arm}: {one['seconds']:.2f} s\n")
    beside = found.get("s3fs open()") or next(iter(found.values()))
    told = {
        "quick": given.quick, "size": size, "first_byte_ms": FIRST_BYTE_MS, "mb_per_s_per_connection": MB_PER_S,
        "seed": SEED, "arms": {arm: storage.figures(found[arm], beside) for arm in arms},
    }  # fmt: skip
    show(told)
    reporting.write("storage_writing", told)
    reporting.bars(
        "storage_writing",
        f"Writing to a store {FIRST_BYTE_MS} ms away, {MB_PER_S} MB/s per connection (MB/s)",
        {f"{size // MIB} MiB": {arm: each["mb_per_s"]["median"] for arm, each in told["arms"].items()}},
        unit="MB/s",
    )


def run(arm: str, endpoint: str, size: int) -> dict[str, float]:
    """One arm once, in a process of its own."""
    command = [sys.executable, __file__, "--arm", arm, "--endpoint", endpoint, "--size", str(size)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise RuntimeError(f"{arm}: {done.stderr[-3000:]}")
    return {**json.loads(done.stdout), **storage.stats(endpoint)}


def show(told: dict[str, Any]) -> None:
    columns = ("arm", "s", "MB/s", "× s3fs open() (min to max)", "requests", "at once", "sent", "CPU s", "MiB more")
    rows = [
        (
            arm, f"{each['seconds']['median']:.2f}", f"{each['mb_per_s']['median']:,.1f}",
            "{median:.1f} ({min:.1f} to {max:.1f})".format(**each["times_s3fs"]),
            f"{each['requests']['median']:.0f}", f"{each['most_at_once']['median']:.0f}",
            f"{each['fetched']['median']:.2f}", f"{each['cpu_s']['median']:.2f}", f"{each['peak_mib']['median']:.0f}",
        )
        for arm, each in told["arms"].items()
    ]  # fmt: skip
    reporting.table(f"one object of {told['size'] // MIB} MiB", columns, rows)


if __name__ == "__main__":
    main()
