"""One object of 1 GiB to the far store: by open() and writes of 1 MiB, or from one buffer.

Who writes has its bytes before its time begins. boto3 reads a file in memory, since of what is no file it never sends
more than ten parts at once.
"""

from __future__ import annotations

import http.client
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from . import clients
from .far_store import MIB, SEED, store
from .processes import moved
from .row import MOVED, Aim, Arm, Given, Measure, Row, Run, Work

GROUP = "one object"
PATH = "bucket/written"


def _data(given: Given) -> bytes:
    return random.Random(SEED).randbytes(MIB) * (given["size"] // MIB)


def _opened_file(fs: Any, given: Given) -> Work:
    data = _data(given)
    whole = memoryview(data)

    def run() -> int:
        with fs.open(PATH, "wb") as file:
            for start in range(0, len(data), MIB):
                file.write(whole[start : start + MIB])
        return len(data)

    return run


def _piped(fs: Any, given: Given) -> Work:
    data = _data(given)
    fs.pipe_file("bucket/another", b"x")

    def run() -> int:
        fs.pipe_file(PATH, data)
        return len(data)

    return run


def _holdshort(given: Given) -> Work:
    return _opened_file(clients.holdshort("checkpoint", given["endpoint"]), given)


def _holdshort_gs(given: Given) -> Work:
    return _opened_file(clients.holdshort("checkpoint", given["endpoint"], protocol="gs"), given)


def _holdshort_pipe(given: Given) -> Work:
    return _piped(clients.holdshort("checkpoint", given["endpoint"]), given)


def _s3fs(given: Given) -> Work:
    return _opened_file(clients.s3fs(given["endpoint"]), given)


def _s3fs_pipe(given: Given) -> Work:
    return _piped(clients.s3fs(given["endpoint"]), given)


def _gcsfs(given: Given) -> Work:
    return _opened_file(clients.gcsfs(given["endpoint"]), given)


def _boto3(given: Given) -> Work:
    return _uploaded(given)


def _boto3_32(given: Given) -> Work:
    return _uploaded(given, max_concurrency=32, multipart_chunksize=clients.PART)


def _uploaded(given: Given, **transfer: Any) -> Work:
    from boto3.s3.transfer import TransferConfig

    client, data = clients.boto3(given["endpoint"]), _data(given)
    file = tempfile.NamedTemporaryFile(dir="/dev/shm")  # noqa: SIM115 - removed with this process
    file.write(data)
    file.flush()

    def run() -> int:
        client.upload_file(file.name, "bucket", "written", Config=TransferConfig(**transfer))
        return len(data)

    return run


def _obstore(given: Given) -> Work:
    """All at once, in parts of obstore's own choice."""
    store, data = clients.obstore(given["endpoint"]), _data(given)

    def run() -> int:
        store.put("written", data)
        return len(data)

    return run


def _obstore_32(given: Given) -> Work:
    """By hand: as many parts at once as pay."""
    store, data = clients.obstore(given["endpoint"]), _data(given)

    def run() -> int:
        store.put("written", data, use_multipart=True, chunk_size=clients.PART, max_concurrency=32)
        return len(data)

    return run


def _s3torchconnector(given: Given) -> Work:
    """As its writer does, in pieces of 1 MiB."""
    client, data = clients.s3torchconnector(given["endpoint"]), _data(given)

    def run() -> int:
        stream = client.put_object("bucket", "written")
        for start in range(0, len(data), MIB):
            stream.write(data[start : start + MIB])
        stream.close()
        return len(data)

    return run


def _limit(given: Given) -> Work:
    """32 threads that PUT slices of one buffer."""
    whole = memoryview(_data(given))

    def part(start: int, connection: http.client.HTTPConnection) -> None:
        number = start // clients.PART + 1
        connection.request("PUT", f"/{PATH}?partNumber={number}", body=whole[start : start + clients.PART])
        connection.getresponse().read()

    def run() -> int:
        clients.by_threads(range(0, len(whole), clients.PART), part, given["endpoint"])
        return len(whole)

    return run


ARMS: Mapping[str, Arm] = {
    "holdshort open()": Arm(_holdshort, profile="checkpoint"),
    "holdshort pipe_file()": Arm(_holdshort_pipe, profile="checkpoint"),
    "holdshort gs:// open()": Arm(_holdshort_gs, "gcsfs", "gcsfs", profile="checkpoint"),
    "s3fs open()": Arm(_s3fs),
    "s3fs pipe_file()": Arm(_s3fs_pipe),
    "gcsfs open()": Arm(_gcsfs, "gcsfs", "gcsfs"),
    "boto3": Arm(_boto3, "boto3", "boto3"),
    "boto3 ×32": Arm(_boto3_32, "boto3", "boto3"),
    "obstore": Arm(_obstore, "obstore", "obstore"),
    "obstore ×32": Arm(_obstore_32, "obstore", "obstore"),
    "s3torchconnector": Arm(_s3torchconnector, "s3torchconnectorclient", "s3torchconnectorclient"),
    "limit": Arm(_limit),
}


def _groups(quick: bool) -> Mapping[str, Sequence[str]]:
    return {GROUP: tuple(ARMS)}


@contextmanager
def _opened(quick: bool, repeats: int) -> Iterator[Measure]:
    size = (256 if quick else 1024) * MIB
    with store(MIB) as endpoint:

        def measure(group: str, arm: str) -> Run:
            return moved("writing", arm, endpoint, size=size)

        yield measure


ROW = Row(
    name="write",
    title="One object of 1 GiB (quick: 256 MiB) written; fetched is what was sent",
    arms=ARMS,
    groups=_groups,
    opened=_opened,
    columns=MOVED,
    aims=(
        Aim("times as fast as s3fs open()", GROUP, "holdshort open()", than="s3fs open()", at_least=8),
        Aim("times as fast as gcsfs open()", GROUP, "holdshort open()", than="gcsfs open()", at_least=8),
        Aim("open(): of obstore ×32's speed", GROUP, "holdshort open()", than="obstore ×32", at_least=0.95),
        Aim("pipe_file(): of obstore ×32's speed", GROUP, "holdshort pipe_file()", than="obstore ×32", at_least=0.95),
        Aim("bytes sent per byte written", GROUP, "holdshort open()", "fetched", at_most=1.05),
    ),
    chart=("mb_per_s", "MB/s"),
)
