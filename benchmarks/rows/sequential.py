"""One object in order, by open() and reads of 1 MiB; who has no open() reads it as it does best."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from . import clients
from .far_store import MIB, PATH, options, store
from .processes import moved
from .row import MOVED, Aim, Arm, Given, Measure, Row, Run, Work

GROUP = "in order"


def _opened_file(fs: Any, path: str = PATH, **opening: Any) -> Work:
    def run() -> int:
        got = 0
        with fs.open(path, **opening) as file:
            while data := file.read(MIB):
                got += len(data)
        return got

    return run


def _holdshort(given: Given) -> Work:
    return _opened_file(clients.holdshort("training", given["endpoint"], cache="none"))


def _holdshort_again(given: Given) -> Work:
    """In a process that has read another object before."""
    fs = clients.holdshort("training", given["endpoint"], cache="none")
    _opened_file(fs, f"bucket/object-of-{given['size'] // 4}-bytes")()
    return _opened_file(fs)


def _holdshort_keeping(given: Given) -> Work:
    return _opened_file(clients.holdshort("training", given["endpoint"], cache="disk"))


def _holdshort_gs(given: Given) -> Work:
    return _opened_file(clients.holdshort("training", given["endpoint"], protocol="gs", cache="none"))


def _s3fs(given: Given) -> Work:
    return _opened_file(clients.s3fs(given["endpoint"]))


def _s3fs_adaptive(given: Given) -> Work:
    return _opened_file(clients.s3fs(given["endpoint"]), cache_type="adaptive", block_size=5 * MIB)


def _gcsfs(given: Given) -> Work:
    return _opened_file(clients.gcsfs(given["endpoint"]))


def _filecache(given: Given) -> Work:
    import fsspec

    fs = fsspec.filesystem(
        "filecache", target_protocol="s3", target_options=options(given["endpoint"]), cache_storage=given["cache"]
    )
    return _opened_file(clients.connected(fs))


def _obstore_loop(given: Given) -> Work:
    """get_range, one after the other."""
    store, parts = clients.obstore(given["endpoint"]), clients.parts("object", given["size"])
    return lambda: sum(len(store.get_range(key, start=start, end=end)) for key, start, end in parts)


def _obstore_threads(given: Given) -> Work:
    """get_range, by 32 threads."""
    store, parts = clients.obstore(given["endpoint"]), clients.parts("object", given["size"])

    def one(part: clients.Span) -> int:
        key, start, end = part
        return len(store.get_range(key, start=start, end=end))

    def run() -> int:
        with ThreadPoolExecutor(32) as pool:
            return sum(pool.map(one, parts))

    return run


def _obstore_by_hand(given: Given) -> Work:
    store, parts = clients.obstore(given["endpoint"]), clients.parts("object", given["size"])
    return lambda: len(asyncio.run(clients.by_hand(store, 32, parts)))


def _boto3(given: Given) -> Work:
    return _downloaded(given)


def _boto3_32(given: Given) -> Work:
    return _downloaded(given, max_concurrency=32, multipart_chunksize=clients.PART)


def _downloaded(given: Given, **config: int) -> Work:
    from boto3.s3.transfer import TransferConfig

    client = clients.boto3(given["endpoint"])

    def run() -> int:
        whole = io.BytesIO()
        client.download_fileobj("bucket", "object", whole, Config=TransferConfig(**config))
        return len(whole.getbuffer())

    return run


def _s3torchconnector(given: Given) -> Work:
    """In order, as its default reader does."""
    client = clients.s3torchconnector(given["endpoint"])
    return lambda: sum(len(part) for part in client.get_object("bucket", "object"))


def _readinto(given: Given) -> Work:
    """The limit: into one buffer that was made before, all pages of which are there."""
    whole = clients.touched_buffer(given["size"])
    return lambda: clients.read_at_the_limit(given["endpoint"], PATH, whole)


ARMS: Mapping[str, Arm] = {
    "holdshort": Arm(_holdshort, profile="training"),
    "holdshort, again": Arm(_holdshort_again, profile="training"),
    "holdshort, keeping it": Arm(_holdshort_keeping, profile="training"),
    "holdshort gs://": Arm(_holdshort_gs, "gcsfs", "gcsfs", profile="training"),
    "s3fs": Arm(_s3fs),
    "s3fs adaptive": Arm(_s3fs_adaptive),
    "gcsfs": Arm(_gcsfs, "gcsfs", "gcsfs"),
    "filecache": Arm(_filecache),
    "obstore, a loop": Arm(_obstore_loop, "obstore", "obstore"),
    "obstore, 32 threads": Arm(_obstore_threads, "obstore", "obstore"),
    "obstore by hand": Arm(_obstore_by_hand, "obstore", "obstore"),
    "boto3": Arm(_boto3, "boto3", "boto3"),
    "boto3 ×32": Arm(_boto3_32, "boto3", "boto3"),
    "s3torchconnector": Arm(_s3torchconnector, "s3torchconnectorclient", "s3torchconnectorclient"),
    "readinto, 32 threads": Arm(_readinto),
}


def _groups(quick: bool) -> Mapping[str, Sequence[str]]:
    return {GROUP: tuple(ARMS)}


@contextmanager
def _opened(quick: bool, repeats: int) -> Iterator[Measure]:
    size = (256 if quick else 1024) * MIB
    with store(size) as endpoint:

        def measure(group: str, arm: str) -> Run:
            return moved("sequential", arm, endpoint, size=size)

        yield measure


ROW = Row(
    name="sequential",
    title="One object of 1 GiB (quick: 256 MiB) in order, by open() and reads of 1 MiB",
    arms=ARMS,
    groups=_groups,
    opened=_opened,
    columns=MOVED,
    aims=(
        Aim("times as fast as s3fs", GROUP, "holdshort", than="s3fs", at_least=10),
        Aim("times as fast as s3fs adaptive", GROUP, "holdshort", than="s3fs adaptive", at_least=3),
        Aim("times as fast as obstore by hand", GROUP, "holdshort", than="obstore by hand", at_least=1),
        Aim("of the limit's speed: readinto by 32 threads", GROUP, "holdshort", than="readinto, 32 threads",
            at_least=0.9),
        Aim("of the limit's speed, in a process that has read before", GROUP, "holdshort, again",
            than="readinto, 32 threads", at_least=0.9),
        Aim("bytes fetched per byte read", GROUP, "holdshort", "fetched", at_most=1.05),
    ),
    chart=("mb_per_s", "MB/s"),
)  # fmt: skip
