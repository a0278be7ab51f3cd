"""A safetensors file into arrays: cold, by several replicas that begin at once, and warm, beside the page cache.

Cold, the time is that of the last replica. Warm, each tensor is touched too: summed up, or copied to one place as to an
accelerator; beside a local copy in the page cache, mapped by hand or read by the format's own library.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import clients
from .far_store import MIB, SEED, options, stats, store_of
from .processes import started, together
from .row import (
    BUDGET,
    CPU_S,
    FETCHED,
    HELD,
    MB_PER_S,
    PEAK,
    REQUESTS,
    SECONDS,
    Aim,
    Arm,
    Column,
    Given,
    Measure,
    Row,
    Run,
    Work,
    kept,
)

NAME = "model.safetensors"
URL, PATH = f"s3://bucket/{NAME}", f"bucket/{NAME}"
ONE = "1 replica"
REPLICAS = {ONE: 1, "4 replicas": 4, "8 replicas": 8}
BY_SUM, BY_COPY = "touched by sum", "touched by copy"


# -- cold ----------------------------------------------------------------------------------------------------------


def _cold_holdshort(given: Given) -> Work:
    from holdshort.storage import load_safetensors

    _connect(given["endpoint"])
    return lambda: _got(load_safetensors(URL, s3=options(given["endpoint"])))


def _connect(endpoint: str) -> None:
    """All is imported, and the client is made, as with the other arms."""
    import fsspec
    import numpy as np

    import holdshort.storage.loading.weights
    from holdshort.storage import checksums

    checksums.crc32c(b"")
    assert np
    assert holdshort.storage.loading.weights
    clients.holdshort("serving", endpoint, cache="none")
    fs, _ = fsspec.url_to_fs(f"serving::{URL}", s3=options(endpoint))
    assert fs


def _cold_obstore(given: Given) -> Work:
    """The arrays are views of the buffer."""
    import numpy as np

    store = clients.obstore(given["endpoint"])

    async def whole() -> memoryview:
        size = (await store.head_async(NAME))["size"]
        return await clients.by_hand(store, 32, clients.parts(NAME, size))

    return lambda: _got(_views(asyncio.run(whole()), np))


def _cold_limit(given: Given) -> Work:
    import numpy as np

    whole = clients.touched_buffer(given["size"])

    def run() -> dict[str, Any]:
        clients.read_at_the_limit(given["endpoint"], PATH, whole)
        return _got(_views(whole, np))

    return run


def _cold_cat(given: Given) -> Work:
    import safetensors.numpy

    fs = clients.s3fs(given["endpoint"])
    return lambda: _got(safetensors.numpy.load(fs.cat_file(PATH)))


def _cold_opened(given: Given) -> Work:
    return _read_by_open(given)


def _cold_adaptive(given: Given) -> Work:
    return _read_by_open(given, cache_type="adaptive", block_size=5 * MIB)


def _read_by_open(given: Given, **opening: Any) -> Work:
    """In reads of 1 MiB, as what copies a file does."""
    import safetensors.numpy

    fs = clients.s3fs(given["endpoint"])

    def run() -> dict[str, Any]:
        whole = bytearray()
        with fs.open(PATH, **opening) as file:
            while data := file.read(MIB):
                whole += data
        return _got(safetensors.numpy.load(bytes(whole)))

    return run


def _cold_runai(given: Given) -> Work:
    return _streamed(given, 0)


def _cold_runai_32(given: Given) -> Work:
    return _streamed(given, 32)


def _streamed(given: Given, at_once: int) -> Work:
    os.environ.update(
        AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret", AWS_REGION="us-east-1",
        AWS_DEFAULT_REGION="us-east-1", AWS_EC2_METADATA_DISABLED="true", AWS_ENDPOINT_URL=given["endpoint"],
        RUNAI_STREAMER_S3_ENDPOINT=given["endpoint"], RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING="0",
    )  # fmt: skip
    if at_once:
        os.environ["RUNAI_STREAMER_CONCURRENCY"] = str(at_once)
    from runai_model_streamer import SafetensorsStreamer
    from runai_model_streamer.file_streamer import FileChunks, FileStreamer

    with FileStreamer() as first:  # its library has been started now
        first.stream_files([FileChunks(0, URL, [0], [8])], None, "cpu")
        assert len(list(first.get_chunks())) == 1

    def run() -> dict[str, Any]:
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(URL, None, "cpu")
            got = sum(tensor.nbytes for tensor in dict(streamer.get_tensors()).values())
        return kept(got)

    return run


COLD: Mapping[str, Arm] = {
    "holdshort": Arm(_cold_holdshort, profile="serving"),
    "obstore by hand": Arm(_cold_obstore, "obstore", "obstore"),
    "Run:ai streamer": Arm(_cold_runai, "runai_model_streamer_s3", "runai-model-streamer[s3]"),
    "Run:ai streamer ×32": Arm(_cold_runai_32, "runai_model_streamer_s3", "runai-model-streamer[s3]"),
    "s3fs cat_file": Arm(_cold_cat, "safetensors", "safetensors"),
    "s3fs open()": Arm(_cold_opened, "safetensors", "safetensors"),
    "s3fs adaptive": Arm(_cold_adaptive, "safetensors", "safetensors"),
    "limit": Arm(_cold_limit),
}


# -- warm ----------------------------------------------------------------------------------------------------------


def _warm_holdshort(given: Given) -> Work:
    from holdshort.storage import load_safetensors

    _connect(given["endpoint"])
    return lambda: _touched(load_safetensors(URL, s3=options(given["endpoint"])), given["group"])


def _warm_read(given: Given) -> Work:
    """The file into memory of which no page is new."""
    import numpy as np

    whole = clients.touched_buffer(given["size"])

    def run() -> dict[str, Any]:
        with open(given["file"], "rb", buffering=0) as file:
            at = 0
            while more := file.readinto(whole[at:]):
                at += more
            return _touched(_views(whole, np), given["group"])

    return run


def _warm_mapped(given: Given) -> Work:
    import mmap

    import numpy as np

    def run() -> dict[str, Any]:
        with open(given["file"], "rb") as file:
            whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
            return _touched(_views(whole, np), given["group"])

    return run


def _warm_library(given: Given) -> Work:
    import safetensors.numpy

    return lambda: _touched(safetensors.numpy.load_file(given["file"]), given["group"])


WARM: Mapping[str, Arm] = {
    "holdshort, warm": Arm(_warm_holdshort, profile="serving"),
    "read by hand": Arm(_warm_read),
    "mapped by hand": Arm(_warm_mapped),
    "safetensors.load_file": Arm(_warm_library, "safetensors", "safetensors"),
}
ARMS: Mapping[str, Arm] = {**COLD, **WARM}


def _views(memory: memoryview, np: Any) -> dict[str, Any]:
    length = int.from_bytes(memory[:8], "little")
    header = json.loads(bytes(memory[8 : 8 + length]))
    return {
        name: np.ndarray(each["shape"], np.float16, memory, 8 + length + each["data_offsets"][0])
        for name, each in header.items()
    }


def _got(arrays: Mapping[str, Any]) -> dict[str, Any]:
    return kept(sum(each.nbytes for each in arrays.values()))


def _touched(arrays: Mapping[str, Any], how: str) -> dict[str, Any]:
    import numpy as np

    place = np.empty(max(each.nbytes for each in arrays.values()), np.uint8)
    place[:] = 1
    began = time.perf_counter()
    for each in arrays.values():
        raw = each.reshape(-1).view(np.uint8)
        if how == BY_SUM:
            raw.view(np.uint64).sum()
        else:
            place[: raw.nbytes] = raw
    told = _got(arrays)
    return {**told, "kept": told["kept"] + place.nbytes, "touch_s": time.perf_counter() - began}


# -- the rows ------------------------------------------------------------------------------------------------------


def _written(file: Path, size: int) -> int:
    """Write tensors of 8 MiB; returns the file's size."""
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


@contextmanager
def _a_model(quick: bool) -> Iterator[tuple[str, Path, int]]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / NAME
        size = _written(file, (256 if quick else 1024) * MIB)
        with store_of(file) as endpoint:
            yield endpoint, file, size


def _cold_groups(quick: bool) -> Mapping[str, Sequence[str]]:
    frugal = ("holdshort", "obstore by hand")
    groups = {
        "1 replica": tuple(COLD),
        "4 replicas": (*frugal, "Run:ai streamer", "s3fs cat_file"),
        "8 replicas": frugal,  # of others, which hold the file two or three times, 8 fill a small machine
    }
    return {group: arms for group, arms in groups.items() if REPLICAS[group] < 8 or not quick}


@contextmanager
def _cold_opened_row(quick: bool, repeats: int) -> Iterator[Measure]:
    with _a_model(quick) as (endpoint, _, size):

        def measure(group: str, arm: str) -> Run:
            given: dict[str, Any] = {"endpoint": endpoint, "size": size}
            with tempfile.TemporaryDirectory() as cache:
                several = started("weights", arm, count=REPLICAS[group], cache=cache, touched=2 * size, **given)
            run = {**together(several), **stats(endpoint)}
            return {**run, "mb_per_s": run["got"] / run["seconds"] / 1e6, "fetched": run["bytes"] / size}

        yield measure


def _warm_groups(quick: bool) -> Mapping[str, Sequence[str]]:
    return {BY_SUM: tuple(WARM), BY_COPY: tuple(WARM)}


@contextmanager
def _warm_opened_row(quick: bool, repeats: int) -> Iterator[Measure]:
    with _a_model(quick) as (endpoint, file, size), tempfile.TemporaryDirectory() as cache:
        told: dict[str, Any] = {"cache": cache, "endpoint": endpoint, "size": size, "file": str(file)}
        started("weights", "holdshort", **told)

        def measure(group: str, arm: str) -> Run:
            (run,) = started("weights", arm, group=group, **told)
            return {**run, "mb_per_s": run["got"] / run["seconds"] / 1e6, **stats(endpoint)}

        yield measure


COLD_ROW = Row(
    name="cold",
    title="A safetensors file of 1 GiB (quick: 256 MiB) into arrays, nothing cached",
    arms=COLD,
    groups=_cold_groups,
    opened=_cold_opened_row,
    columns=(SECONDS, MB_PER_S, REQUESTS, FETCHED, CPU_S, PEAK, HELD, BUDGET),
    aims=(
        Aim("times as fast as s3fs open()", ONE, "holdshort", than="s3fs open()", at_least=10),
        Aim("times as fast as s3fs adaptive", ONE, "holdshort", than="s3fs adaptive", at_least=3),
        Aim("times as fast as obstore by hand", ONE, "holdshort", than="obstore by hand", at_least=1),
        Aim("of the limit's speed", ONE, "holdshort", than="limit", at_least=0.9),
        Aim("bytes fetched per byte of the file, all replicas", "", "holdshort", "fetched", at_most=1.05),
    ),
    chart=("mb_per_s", "MB/s"),
)
WARM_ROW = Row(
    name="warm",
    title="The same file again, from the cache on disk, each tensor touched",
    arms=WARM,
    groups=_warm_groups,
    opened=_warm_opened_row,
    columns=(SECONDS, Column("touch_s", "touching s", 2), MB_PER_S, REQUESTS, CPU_S, PEAK, HELD, BUDGET),
    aims=tuple(
        Aim(f"of the page cache's speed, {how}, {group.removeprefix('touched ')}", group, "holdshort, warm",
            than=f"{how} by hand", at_least=0.8)
        for how in ("read", "mapped") for group in (BY_SUM, BY_COPY)
    ),
    chart=("mb_per_s", "MB/s"),
    repeats=(6, 2),
)  # fmt: skip
