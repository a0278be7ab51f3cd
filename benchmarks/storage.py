"""Reading from a store that is 40 ms and 90 MB/s per connection away: with a profile, and beside others.

    python benchmarks/storage.py [--quick]

Each arm runs in a process of its own, which has imported and connected before its time begins; arms take turns in an
order of their own in each repeat. The limit is a loop of 32 threads that read ranges into one buffer with the standard
library. "Fetched" is what the store sent ÷ what was asked for. It takes about 6 minutes, with --quick 1.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import reporting

FIRST_BYTE_MS, MB_PER_S = 40, 90
MIB = 2**20
RANDOM_READS, SMALL_OBJECTS, RANGES = 40, 2000, 400
SMALL_BYTES = RANDOM_BYTES = 65536
PATH = "bucket/object"
SEED = 20261124
Work = Callable[[], int]


# -- arms: each connects, then returns what is to be timed, which returns how many bytes it has read ---------------


def holdshort(work: str, endpoint: str, size: int) -> Work:
    return _profiled(work, endpoint, size, cache="none")


def holdshort_caching(work: str, endpoint: str, size: int) -> Work:
    """What comes is kept on disk; the cache is empty at the beginning."""
    return _profiled(work, endpoint, size, cache="disk")


def _profiled(work: str, endpoint: str, size: int, **values: Any) -> Work:
    import fsspec

    fs = fsspec.filesystem("training", target_protocol="s3", target_options=_options(endpoint), **values)
    return _fsspec_work(fs, work, size)


def s3fs(work: str, endpoint: str, size: int) -> Work:
    import fsspec

    return _fsspec_work(fsspec.filesystem("s3", **_options(endpoint)), work, size)


def s3fs_adaptive(work: str, endpoint: str, size: int) -> Work:
    import fsspec

    fs = fsspec.filesystem("s3", **_options(endpoint))
    return _fsspec_work(fs, work, size, cache_type="adaptive", block_size=5 * MIB)


def filecache(work: str, endpoint: str, size: int) -> Work:
    import fsspec

    fs = fsspec.filesystem(
        "filecache",
        target_protocol="s3",
        target_options=_options(endpoint),
        cache_storage=os.environ["HOLDSHORT_CACHE"],
    )
    return _fsspec_work(fs, work, size)


def boto3_default(work: str, endpoint: str, size: int) -> Work:
    return _boto3(endpoint, size)


def boto3_32(work: str, endpoint: str, size: int) -> Work:
    """Parts of 8 MiB, 32 at once."""
    return _boto3(endpoint, size, max_concurrency=32, multipart_chunksize=8 * MIB)


def _boto3(endpoint: str, size: int, **config: int) -> Work:
    import boto3
    from boto3.s3.transfer import TransferConfig
    from botocore.config import Config

    client = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="key", aws_secret_access_key="secret", region_name="us-east-1",
        config=Config(max_pool_connections=64),
    )  # fmt: skip
    client.get_object(Bucket="bucket", Key="another", Range="bytes=0-0")["Body"].read()

    def run() -> int:
        whole = io.BytesIO()
        client.download_fileobj("bucket", "object", whole, Config=TransferConfig(**config))
        return len(whole.getbuffer())

    return run


def s3torchconnector(work: str, endpoint: str, size: int) -> Work:
    """Its client in order, as its default reader uses it."""
    from s3torchconnectorclient._mountpoint_s3_client import MountpointS3Client

    os.environ.update(AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret")
    client = MountpointS3Client(region="us-east-1", endpoint=endpoint, force_path_style=True)
    return lambda: sum(len(part) for part in client.get_object("bucket", "object"))


def obstore(work: str, endpoint: str, size: int) -> Work:
    """By hand: as many requests at once as pay, straight into one buffer."""
    from obstore.store import S3Store

    store = S3Store(
        "bucket", endpoint=endpoint, access_key_id="key", secret_access_key="secret", region="us-east-1",
        virtual_hosted_style_request=False, client_options={"allow_http": True},
    )  # fmt: skip

    store.get_range("another", start=0, end=1)

    async def parts(at_once: int, wanted: list[tuple[str, int, int]]) -> int:
        gate = asyncio.Semaphore(at_once)
        whole = bytearray(sum(end - start for _, start, end in wanted))

        async def one(at: int, key: str, start: int, end: int) -> None:
            async with gate:
                whole[at : at + end - start] = await store.get_range_async(key, start=start, end=end)

        places, at = [], 0
        for key, start, end in wanted:
            places.append(one(at, key, start, end))
            at += end - start
        await asyncio.gather(*places)
        return len(whole)

    if work == "sequential":
        wanted = [("object", start, min(start + 8 * MIB, size)) for start in range(0, size, 8 * MIB)]
        return lambda: asyncio.run(parts(32, wanted))
    if work == "small":
        return lambda: asyncio.run(parts(64, [(f"small-{n}", 0, SMALL_BYTES) for n in range(SMALL_OBJECTS)]))
    return lambda: asyncio.run(parts(64, [("object", *span) for span in _ranges(size)]))


def limit(work: str, endpoint: str, size: int) -> Work:
    import http.client

    whole = memoryview(bytearray(size))
    whole[::4096] = bytes(len(range(0, size, 4096)))  # so that no page of it is new
    host = endpoint.removeprefix("http://")

    def run() -> int:
        todo, lock = list(range(0, size, 8 * MIB)), threading.Lock()

        def one() -> None:
            connection = http.client.HTTPConnection(host)
            while True:
                with lock:
                    if not todo:
                        connection.close()
                        return
                    start = todo.pop(0)
                end = min(size, start + 8 * MIB)
                connection.request("GET", f"/{PATH}", headers={"Range": f"bytes={start}-{end - 1}"})
                answer = connection.getresponse()
                while start < end:
                    start += answer.readinto(whole[start:end])
                answer.read()

        threads = [threading.Thread(target=one) for _ in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return size

    return run


ARMS = {
    "holdshort": holdshort,
    "holdshort, keeping it": holdshort_caching,
    "s3fs": s3fs,
    "s3fs adaptive": s3fs_adaptive,
    "filecache": filecache,
    "boto3": boto3_default,
    "boto3 x32": boto3_32,
    "s3torchconnector": s3torchconnector,
    "obstore by hand": obstore,
    "limit": limit,
}
OPTIONAL = {
    "obstore by hand": "obstore",
    "boto3": "boto3",
    "boto3 x32": "boto3",
    "s3torchconnector": "s3torchconnectorclient",
}
"""What an arm needs; without it, it is left out."""
WORKS = {
    "sequential": ("one object in order, by open() and reads of 1 MiB", tuple(ARMS)),
    "random": (f"{RANDOM_READS} reads of 64 KiB at random, one file", ("holdshort", "s3fs", "s3fs adaptive")),
    "ranges": (f"{RANGES} ranges of 64 KiB, by one cat_ranges()", ("holdshort", "s3fs", "obstore by hand")),
    "small": (
        f"{SMALL_OBJECTS:,} objects of 64 KiB, by one cat()",
        ("holdshort", "holdshort, keeping it", "s3fs", "obstore by hand"),
    ),
}


def _fsspec_work(fs: Any, work: str, size: int, **opening: Any) -> Work:
    fs.cat_file("bucket/another", start=0, end=1)  # it has found its credentials and made its client now

    def sequential() -> int:
        got = 0
        with fs.open(PATH, **opening) as file:
            while data := file.read(MIB):
                got += len(data)
        return got

    def at_random() -> int:
        with fs.open(PATH, **opening) as file:
            return sum(len(_read_at(file, start)) for start, _ in _ranges(size)[:RANDOM_READS])

    def ranges() -> int:
        starts, ends = zip(*_ranges(size), strict=True)
        return sum(len(data) for data in fs.cat_ranges([PATH] * RANGES, list(starts), list(ends)))

    def small() -> int:
        return sum(len(data) for data in fs.cat([f"bucket/small-{n}" for n in range(SMALL_OBJECTS)]).values())

    return {"sequential": sequential, "random": at_random, "ranges": ranges, "small": small}[work]


def _read_at(file: Any, start: int) -> bytes:
    file.seek(start)
    return file.read(RANDOM_BYTES)


def _ranges(size: int) -> list[tuple[int, int]]:
    rng = random.Random(SEED)
    starts = [rng.randrange(size - RANDOM_BYTES) for _ in range(RANGES)]
    return [(start, start + RANDOM_BYTES) for start in starts]


def _options(endpoint: str) -> dict[str, Any]:
    return {"key": "key", "secret": "secret", "endpoint_url": endpoint, "client_kwargs": {"region_name": "us-east-1"}}


# -- running ---------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the bytes, one repeat")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--endpoint", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.arm:
        timed(ARMS[given.arm](given.work, given.endpoint, given.size))
        return
    size, repeats = (256 * MIB, 1) if given.quick else (1024 * MIB, 3)
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    order = random.Random(SEED)
    with store(size) as large, store(SMALL_BYTES) as small:
        for repeat in range(repeats):
            for work, (_, arms) in WORKS.items():
                endpoint = small if work == "small" else large
                for arm in order.sample(arms, len(arms)):
                    if (needs := OPTIONAL.get(arm)) and find_spec(needs) is None:
                        continue
                    try:
                        one = run(arm, work, endpoint, size)
                    except subprocess.CalledProcessError as error:
                        sys.stderr.write(
                            f"repeat {repeat + 1}/{repeats}, {work}, {arm}: ended with {error.returncode}\n"
                        )
                        continue
                    found.setdefault(work, {}).setdefault(arm, []).append(one)
                    sys.stderr.write(f"repeat {repeat + 1}/{repeats}, {work}, {arm}: {one['seconds']:.2f} s\n")
    told = {
        "quick": given.quick, "size": size, "first_byte_ms": FIRST_BYTE_MS, "mb_per_s_per_connection": MB_PER_S,
        "seed": SEED,
        "works": {work: {arm: figures(runs, found[work]["s3fs"]) for arm, runs in arms.items()}
                  for work, arms in found.items()},
    }  # fmt: skip
    show(told)
    reporting.write("storage", told)
    reporting.bars(
        "storage",
        f"Reading from a store {FIRST_BYTE_MS} ms away, {MB_PER_S} MB/s per connection (MB/s)",
        {work: {arm: each["mb_per_s"]["median"] for arm, each in arms.items()} for work, arms in told["works"].items()},
        unit="MB/s", log=True,
    )  # fmt: skip


@contextmanager
def store(size: int) -> Iterator[str]:
    """A store whose objects all have this size; yields its URL."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as file:
        file.write(random.Random(SEED).randbytes(MIB) * (size // MIB) or bytes(size))
        file.flush()
        server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("latency_server.py")), str(FIRST_BYTE_MS), str(MB_PER_S),
             file.name],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()
            server.communicate()


def run(arm: str, work: str, endpoint: str, size: int) -> dict[str, float]:
    """One arm once, in a process of its own."""
    stats(endpoint)
    touch(size)
    command = [sys.executable, __file__, "--arm", arm, "--work", work, "--endpoint", endpoint, "--size", str(size)]
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(command, check=True, capture_output=True, env={**os.environ, "HOLDSHORT_CACHE": cache})
    return {**json.loads(done.stdout), **stats(endpoint)}


def touch(size: int) -> None:
    """Have the machine's memory in hand: on a virtual one, what nobody has used for a while takes long to come."""
    with tempfile.TemporaryFile() as file:
        for _ in range(0, size, 8 * MIB):
            file.write(bytes(8 * MIB))


def stats(endpoint: str) -> dict[str, float]:
    with urlopen(f"{endpoint}/__stats") as answer:
        return json.load(answer)


def timed(work: Work, before_mib: float = 0.0) -> None:
    """Print what it took, as JSON; the peak of memory above what there was before."""
    usage, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    got = work()
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
    told = {"seconds": seconds, "got": got, "cpu_s": cpu_s, "peak_mib": peak_mib() - before_mib}
    sys.stdout.write(json.dumps(told))


def peak_mib() -> float:
    """The most memory that this process had; what the system reports at its end counts the parent's too."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def figures(runs: list[dict[str, float]], beside: list[dict[str, float]]) -> dict[str, Any]:
    return {
        "seconds": reporting.spread([run["seconds"] for run in runs]),
        "mb_per_s": reporting.spread([run["got"] / run["seconds"] / 1e6 for run in runs]),
        "times_s3fs": reporting.spread([b["seconds"] / run["seconds"] for run, b in zip(runs, beside, strict=False)]),
        "requests": reporting.spread([run["requests"] for run in runs]),
        "fetched": reporting.spread([run["bytes"] / run["got"] for run in runs]),
        "most_at_once": reporting.spread([run["most_at_once"] for run in runs]),
        "cpu_s": reporting.spread([run["cpu_s"] for run in runs]),
        "peak_mib": reporting.spread([run["peak_mib"] for run in runs]),
    }


def show(told: dict[str, Any]) -> None:
    columns = ("arm", "s", "MB/s", "× s3fs (min to max)", "requests", "at once", "fetched", "CPU s", "MiB")
    for work, arms in told["works"].items():
        rows = [
            (
                arm, f"{each['seconds']['median']:.2f}", f"{each['mb_per_s']['median']:,.1f}",
                "{median:.1f} ({min:.1f} to {max:.1f})".format(**each["times_s3fs"]),
                f"{each['requests']['median']:.0f}", f"{each['most_at_once']['median']:.0f}",
                f"{each['fetched']['median']:.2f}", f"{each['cpu_s']['median']:.2f}",
                f"{each['peak_mib']['median']:.0f}",
            )
            for arm, each in arms.items()
        ]  # fmt: skip
        reporting.table(f"{work}: {WORKS[work][0]}", columns, rows)


if __name__ == "__main__":
    main()
