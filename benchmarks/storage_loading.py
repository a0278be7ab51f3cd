"""Weights and data sets from a store that is 40 ms and 90 MB/s per connection away, beside others and the page cache.

    python benchmarks/storage_loading.py [--quick] [--only cold|warm|epochs]

cold: a safetensors file into arrays, by 1, 4 and 8 replicas that begin at once; the time is that of the last one.
warm: the same once more, each tensor touched: summed up, or copied to one place as to an accelerator; beside a local
copy in the page cache, mapped by hand or read by the format's own library.
epochs: 3 shuffled epochs of a data set, with a cache of 25 to 150 % of it and 0 to 4 workers of torch's DataLoader,
beside the same files in a local folder in the page cache. A sample is read as a whole and summed up.

Each arm runs in processes of its own, which have imported and connected before their time begins; arms take turns in an
order of their own in each repeat. "Fetched" is what the store sent ÷ the size of the file or set. Arms whose package is
not installed (obstore, safetensors, torch) are left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import reporting
from storage import FIRST_BYTE_MS, MB_PER_S, SEED, _options, peak_mib, stats

MIB = 2**20
REPLICAS = (1, 4, 8)
SHARES, WORKERS = (25, 50, 100, 150), (0, 2, 4)
EPOCHS = 3
Work = Callable[[], dict[str, Any]]


# -- arms: each connects, then returns what is to be timed ---------------------------------------------------------


def cold_holdshort(given: argparse.Namespace) -> Work:
    from holdshort.storage import load_safetensors

    _connect(given)
    return lambda: _got(load_safetensors("s3://bucket/model.safetensors", s3=_options(given.endpoint)))


def cold_obstore(given: argparse.Namespace) -> Work:
    """By hand: 32 requests at once into one buffer, the arrays are views of it."""
    import numpy as np
    from obstore.store import S3Store

    store = S3Store(
        "bucket", endpoint=given.endpoint, access_key_id="key", secret_access_key="secret", region="us-east-1",
        virtual_hosted_style_request=False, client_options={"allow_http": True},
    )  # fmt: skip
    store.get_range("another", start=0, end=1)

    async def whole() -> memoryview:
        size = (await store.head_async("model.safetensors"))["size"]
        gate, found = asyncio.Semaphore(32), memoryview(bytearray(size))

        async def one(start: int) -> None:
            end = min(start + 8 * MIB, size)
            async with gate:
                found[start:end] = memoryview(
                    await store.get_range_async("model.safetensors", start=start, end=end)
                ).cast("B")

        await asyncio.gather(*(one(start) for start in range(0, size, 8 * MIB)))
        return found

    def run() -> dict[str, Any]:
        return _got(_views(asyncio.run(whole()), np))

    return run


def cold_s3fs(given: argparse.Namespace) -> Work:
    import fsspec
    import safetensors.numpy

    fs = fsspec.filesystem("s3", **_options(given.endpoint))
    fs.cat_file("bucket/another", start=0, end=1)
    return lambda: _got(safetensors.numpy.load(fs.cat_file("bucket/model.safetensors")))


def warm_holdshort(given: argparse.Namespace) -> Work:
    from holdshort.storage import load_safetensors

    _connect(given)
    return lambda: _touched(
        load_safetensors("s3://bucket/model.safetensors", s3=_options(given.endpoint)), given.touch
    )  # fmt: skip


def warm_mmap(given: argparse.Namespace) -> Work:
    import mmap

    import numpy as np

    def run() -> dict[str, Any]:
        with open(given.file, "rb") as file:
            return _touched(_views(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), np), given.touch)

    return run


def warm_library(given: argparse.Namespace) -> Work:
    import safetensors.numpy

    return lambda: _touched(safetensors.numpy.load_file(given.file), given.touch)


def epochs(given: argparse.Namespace) -> Work:
    """A data set by torch's DataLoader; what `--arm` says is where from."""
    import numpy as np

    paths = [f"bucket/set/{number:05}" for number in range(given.objects)]
    prefetch = given.arm == "holdshort prefetching"
    if given.arm == "local":
        fs = None

        def read(path: str) -> bytes:
            return (Path(given.file).parent / path).read_bytes()
    elif given.arm == "s3fs":
        import fsspec

        fs = fsspec.filesystem("s3", **_options(given.endpoint))
        read = fs.cat_file
    else:
        import fsspec

        fs = fsspec.filesystem(
            "training", target_protocol="s3", target_options=_options(given.endpoint),
            cache_bytes=given.objects * given.size * given.share // 100,
        )  # fmt: skip
        read = fs.cat_file

    class Samples:
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, number: int) -> int:
            return int(np.frombuffer(read(paths[number]), np.uint64).sum(dtype=np.uint64))

    def order(epoch: int) -> list[int]:
        return random.Random(SEED + epoch).sample(range(len(paths)), len(paths))

    data = Samples()
    if given.arm == "s3fs" and given.workers:
        import multiprocessing

        multiprocessing.set_start_method("spawn", force=True)

    def run() -> dict[str, Any]:
        seconds, fetched = [], []
        for epoch in range(EPOCHS):
            stats(given.endpoint)
            began = time.perf_counter()
            numbers: Any = order(epoch)
            if prefetch:
                assert fs is not None
                numbers = fs.prefetch(numbers, path=paths.__getitem__)
            if given.workers:
                from torch.utils.data import DataLoader

                loader = DataLoader(
                    data, batch_size=None, sampler=numbers, num_workers=given.workers, multiprocessing_context="fork"
                )
                read_samples = sum(1 for _ in loader)
            else:
                read_samples = sum(1 for number in numbers if data[number] >= 0)
            assert read_samples == len(paths)
            seconds.append(time.perf_counter() - began)
            fetched.append(stats(given.endpoint)["bytes"] / (given.objects * given.size))
        return {"epochs": seconds, "fetched": fetched}

    return run


COLD = {"holdshort": cold_holdshort, "obstore by hand": cold_obstore, "s3fs + safetensors": cold_s3fs}
WARM = {"holdshort": warm_holdshort, "mapped by hand": warm_mmap, "safetensors.load_file": warm_library}
EPOCH_ARMS = ("holdshort", "holdshort prefetching", "local", "s3fs")
NEEDS = {"obstore by hand": "obstore", "s3fs + safetensors": "safetensors", "safetensors.load_file": "safetensors"}


def _connect(given: argparse.Namespace) -> None:
    import fsspec
    import numpy as np

    import holdshort.storage.loading.weights
    from holdshort.storage import checksums

    checksums.crc32c(b"")
    assert np
    assert holdshort.storage.loading.weights
    serving = fsspec.filesystem("serving", target_protocol="s3", target_options=_options(given.endpoint), cache="none")
    serving.cat_file("bucket/another", 0, 1)
    fs, _ = fsspec.url_to_fs("serving::s3://bucket/model.safetensors", s3=_options(given.endpoint))
    assert fs


def _views(memory: Any, np: Any) -> dict[str, Any]:
    length = int.from_bytes(memory[:8], "little")
    header = json.loads(bytes(memory[8 : 8 + length]))
    return {
        name: np.ndarray(each["shape"], np.float16, memory, 8 + length + each["data_offsets"][0])
        for name, each in header.items()
    }


def _got(arrays: dict[str, Any]) -> dict[str, Any]:
    return {"got": sum(each.nbytes for each in arrays.values())}


def _touched(arrays: dict[str, Any], how: str) -> dict[str, Any]:
    import numpy as np

    place = np.empty(max(each.nbytes for each in arrays.values()), np.uint8)
    place[:] = 1
    began = time.perf_counter()
    for each in arrays.values():
        raw = each.reshape(-1).view(np.uint8)
        if how == "sum":
            raw.view(np.uint64).sum()
        else:
            place[: raw.nbytes] = raw
    return {**_got(arrays), "touch_s": time.perf_counter() - began}


# -- running ---------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the bytes, fewer sizes, one repeat")
    parser.add_argument("--only", choices=("cold", "warm", "epochs"))
    parser.add_argument("--work", help=argparse.SUPPRESS)
    for name in ("arm", "endpoint", "file", "touch"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    for name in ("workers", "share", "objects", "size"):
        parser.add_argument(f"--{name}", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        replica(given)
        return
    repeats = 1 if given.quick else 3
    told: dict[str, Any] = {
        "quick": given.quick, "first_byte_ms": FIRST_BYTE_MS, "mb_per_s_per_connection": MB_PER_S, "seed": SEED,
        "crc32c": "awscrt" if find_spec("awscrt") else "google-crc32c",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        if given.only in (None, "cold", "warm"):
            file = Path(folder) / "model.safetensors"
            told["weights_bytes"] = write_weights(file, (256 if given.quick else 1024) * MIB)
            with store(file) as endpoint:
                if given.only != "warm":
                    told["cold"] = cold(endpoint, file, repeats, REPLICAS[:2] if given.quick else REPLICAS)
                if given.only != "cold":
                    told["warm"] = warm(endpoint, file, repeats)
        if given.only in (None, "epochs"):
            told["epochs"] = all_epochs(Path(folder), repeats, quick=given.quick)
    show(told)
    if given.only is None:
        reporting.write("storage_loading", told)
        draw(told)


def cold(endpoint: str, file: Path, repeats: int, replicas: tuple[int, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    size = file.stat().st_size
    for repeat, count, arm in turns(repeats, replicas, COLD):
        with a_cache() as cache:
            stats(endpoint)
            runs = run(count, cache, work="cold", arm=arm, endpoint=endpoint)
        one = {
            "seconds": max(each["seconds"] for each in runs), "cpu_s": sum(each["cpu_s"] for each in runs),
            "peak_mib": max(each["peak_mib"] for each in runs), **stats(endpoint),
        }  # fmt: skip
        one["fetched"] = one["bytes"] / size
        add(found, repeat, f"{count} replicas", arm, one)
    return found


def warm(endpoint: str, file: Path, repeats: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with a_cache() as cache:
        run(1, cache, work="cold", arm="holdshort", endpoint=endpoint)
        for repeat, touch, arm in turns(repeats * 2, ("sum", "copy"), WARM):
            (one,) = run(1, cache, work="warm", arm=arm, endpoint=endpoint, file=str(file), touch=touch)
            add(found, repeat, f"touched by {touch}", arm, one)
    return found


def all_epochs(folder: Path, repeats: int, *, quick: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    objects, size = (48, 2 * MIB) if quick else (128, 4 * MIB)
    sample = folder / "sample"
    sample.write_bytes(random.Random(SEED).randbytes(size))
    (folder / "bucket" / "set").mkdir(parents=True)
    for number in range(objects):
        (folder / f"bucket/set/{number:05}").write_bytes(sample.read_bytes())
    workers = WORKERS if find_spec("torch") else (0,)
    shares = SHARES
    if quick:
        workers, shares = workers[:2], (50, 150)
    with store(sample) as endpoint:
        for repeat, (share, count), arm in turns(
            repeats, tuple((s, w) for w in workers for s in (*shares, 0)), EPOCH_ARMS
        ):
            if (share == 0) != (arm in ("local", "s3fs")) or (arm == "s3fs" and count):
                continue
            with a_cache() as cache:
                (one,) = run(
                    1, cache, work="epochs", arm=arm, endpoint=endpoint, workers=count, share=share, objects=objects,
                    size=size, file=str(sample),
                )  # fmt: skip
            add(found, repeat, f"{count} workers", f"{arm}, {share} %" if share else arm, one)
    return found


def turns(repeats: int, ways: tuple[Any, ...], arms: Any) -> Iterator[tuple[int, Any, str]]:
    """Everything once in each repeat, arms in an order of their own each time."""
    order = random.Random(SEED)
    there = [arm for arm in arms if find_spec(NEEDS.get(arm, "json"))]
    for repeat in range(repeats):
        for way in ways:
            for arm in order.sample(there, len(there)):
                yield repeat, way, arm


def add(found: dict[str, Any], repeat: int, group: str, arm: str, one: dict[str, Any]) -> None:
    found.setdefault(group, {}).setdefault(arm, []).append(one)
    told = ", ".join(f"{each:.2f}" for each in one["epochs"]) if "epochs" in one else f"{one['seconds']:.3f}"
    sys.stderr.write(f"repeat {repeat + 1}, {group}, {arm}: {told} s\n")


def run(count: int, cache: str, **given: Any) -> list[dict[str, Any]]:
    """So many processes, which begin at once when all are ready."""
    command = [sys.executable, __file__]
    for name, value in given.items():
        command += [f"--{name}", str(value)]
    environment = {**os.environ, "HOLDSHORT_CACHE": cache}
    there = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    for each in there:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    if "endpoint" in given:
        stats(given["endpoint"])
    for each in there:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    return [json.loads(each.communicate()[0]) for each in there]


def replica(given: argparse.Namespace) -> None:
    """One process of an arm."""
    work = epochs(given) if given.work == "epochs" else {"cold": COLD, "warm": WARM}[given.work][given.arm](given)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    usage, began = [resource.getrusage(who) for who in _WHO], time.perf_counter()
    told = work()
    seconds = time.perf_counter() - began
    after = [resource.getrusage(who) for who in _WHO]
    cpu_s = sum(a.ru_utime + a.ru_stime - b.ru_utime - b.ru_stime for a, b in zip(after, usage, strict=True))
    sys.stdout.write(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "peak_mib": peak_mib(), **told}))


_WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


@contextmanager
def store(file: Path) -> Iterator[str]:
    """A store that has this file under every name."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as served:
        served.write(file.read_bytes())
        served.flush()
        server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("latency_server.py")), str(FIRST_BYTE_MS), str(MB_PER_S),
             served.name],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()
            server.communicate()


@contextmanager
def a_cache() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        yield folder


def write_weights(file: Path, size: int) -> int:
    """A safetensors file of tensors of 8 MiB; returns its size."""
    each = 8 * MIB
    header = {
        f"layers.{n}.weight": {"dtype": "F16", "shape": [2048, 2048], "data_offsets": [n * each, (n + 1) * each]}
        for n in range(size // each)
    }
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)
    part = random.Random(SEED).randbytes(each)
    with file.open("wb") as opened:
        opened.write(len(told).to_bytes(8, "little") + told)
        for _ in range(size // each):
            opened.write(part)
    return file.stat().st_size


# -- showing ---------------------------------------------------------------------------------------------


def show(told: dict[str, Any]) -> None:
    """Turn runs into figures, and print them."""
    for work in ("cold", "warm"):
        for group, arms in told.get(work, {}).items():
            names = [name for name in ("seconds", "touch_s", "cpu_s", "fetched", "requests", "peak_mib")
                     if name in next(iter(arms.values()))[0]]  # fmt: skip
            for arm, runs in arms.items():
                arms[arm] = {name: reporting.spread([each[name] for each in runs]) for name in names}
                arms[arm]["mb_per_s"] = told["weights_bytes"] / 1e6 / arms[arm]["seconds"]["median"]
            rows = [
                (arm, *(f"{each[name]['median']:,.2f}" for name in names), f"{each['mb_per_s']:,.0f}")
                for arm, each in arms.items()
            ]
            reporting.table(f"{work}: {group}", ("arm", *names, "MB/s"), rows)
    for group, arms in told.get("epochs", {}).items():
        for arm, runs in arms.items():
            arms[arm] = {
                "epochs": [reporting.spread(list(each)) for each in zip(*(o["epochs"] for o in runs), strict=True)],
                "hits": [1 - reporting.spread(list(each))["median"]
                         for each in zip(*(o["fetched"] for o in runs), strict=True)],
                "cpu_s": reporting.spread([each["cpu_s"] for each in runs]),
                "peak_mib": reporting.spread([each["peak_mib"] for each in runs]),
            }  # fmt: skip
        rows = [
            (
                arm, *(f"{each['median']:.2f}" for each in one["epochs"]), *(f"{hit:.2f}" for hit in one["hits"]),
                f"{one['cpu_s']['median']:.1f}", f"{one['peak_mib']['median']:.0f}",
            )
            for arm, one in sorted(arms.items())
        ]  # fmt: skip
        columns = ("arm", *(f"epoch {n} s" for n in (1, 2, 3)), *(f"hits {n}" for n in (1, 2, 3)), "CPU s", "MiB")
        reporting.table(f"epochs: {group}", columns, rows)


def draw(told: dict[str, Any]) -> None:
    groups = {f"cold, {group}": {arm: each["mb_per_s"] for arm, each in arms.items()}
              for group, arms in told["cold"].items()}  # fmt: skip
    reporting.bars(
        "storage_loading", f"Weights from a store {FIRST_BYTE_MS} ms away, {MB_PER_S} MB/s per connection (MB/s)",
        groups, unit="MB/s", log=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
