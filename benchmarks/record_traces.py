"""Records how real libraries read files, through `auto::` on a local folder, for tests and for benchmarks/auto.py.

    pip install pandas pyarrow safetensors zarr
    python benchmarks/record_traces.py [NAME ...]

Each work makes its files, then reads them with every read noted; names are such that no rule on paths decides. Traces
are written to tests/support/recorded/NAME.json: what was read when, and by which process, without any content.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import struct
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from holdshort.profiles.pattern import Event, Kind
from holdshort.storage.filesystem import AutoFileSystem
from support.traces import RECORDED, to_json

KIB, MIB = 2**10, 2**20
SEED = 20261124
SHARDS = 24


class Recorder:
    """Notes what is told, in place of storage.observing.Observing, and never knows better than `plain`."""

    def __init__(self, root: Path, process: str) -> None:
        self.root, self.process = root, process
        self.events: list[Event] = []
        self.began_s = time.perf_counter()

    def tell(self, kind: Kind, path: str, *, size: int = 0, start: int = 0, length: int = 0, tag: str = "") -> None:
        at_s = time.perf_counter() - self.began_s
        name = "data/" + str(Path(path).relative_to(self.root))
        size = size or Path(path).stat().st_size
        if kind == "vector" and self.events and self.events[-1].kind == "vector":
            last_s = self.events[-1].at_s
            at_s = last_s if at_s - last_s < 0.0005 else at_s  # asked for at once
        self.events.append(Event(at_s, kind, name, size, start, length, self.process))

    def choice(self, path: str) -> None:
        return None


def recorded(root: Path, process: str, read: Callable[[Any, Path], None]) -> list[Event]:
    """What a reader does."""
    import fsspec

    recorder = Recorder(root, process)

    class Watched(AutoFileSystem):
        def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
            file = super()._open(path, mode, **kwargs)
            close = file.close

            def closed() -> None:
                if not file.closed:
                    recorder.tell("close", file.path, size=file.size)
                close()

            file.close = closed
            return file

    fs = Watched(fs=fsspec.filesystem("file", skip_instance_cache=True), skip_instance_cache=True)
    fs._observing = recorder  # type: ignore[assignment]
    read(fs, root)
    return recorder.events


# -- works: (make files, read them, what it needs) -----------------------------------------------------------


def make_tables(root: Path) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(SEED)
    for n in range(6):
        table = pa.table({f"c{column}": rng.random(500_000) for column in range(12)})
        pq.write_table(table, root / f"part-{n}.pq", row_group_size=100_000)


def columns_by_pyarrow(fs: Any, root: Path) -> None:
    import pyarrow.parquet as pq

    for n in range(6):
        pq.read_table(f"{root}/part-{n}.pq", filesystem=fs, columns=["c3", "c7"])


def batches_by_pyarrow(fs: Any, root: Path) -> None:
    import pyarrow.dataset as ds

    for _ in range(2):
        scanned = ds.dataset([f"{root}/part-{n}.pq" for n in range(6)], filesystem=fs, format="parquet")
        for _ in scanned.to_batches(use_threads=False):
            pass


def tables_by_pandas(fs: Any, root: Path) -> None:
    import pandas as pd

    for n in range(6):
        with fs.open(f"{root}/part-{n}.pq") as file:
            pd.read_parquet(file)


def make_csv(root: Path) -> None:
    row = ",".join(str(n / 7) for n in range(8)) + "\n"
    for n in range(2):
        (root / f"{n}.csv").write_text("a,b,c,d,e,f,g,h\n" + row * (48 * MIB // len(row)))


def csv_by_pandas(fs: Any, root: Path) -> None:
    import pandas as pd

    for n in range(2):
        with fs.open(f"{root}/{n}.csv", "rb") as file:
            for _ in pd.read_csv(file, chunksize=100_000):
                pass


def make_array(root: Path) -> None:
    import numpy as np
    import zarr

    array = zarr.create_array(store=root / "a", shape=(64, 1024, 1024), chunks=(4, 256, 256), dtype="float32")
    array[:] = np.random.default_rng(SEED).random(array.shape, dtype="float32")


def array_by_zarr(fs: Any, root: Path) -> None:
    import zarr
    from zarr.storage import FsspecStore

    store = FsspecStore.from_url(f"auto::file://{root}/a", read_only=True)
    # Its file system is one that wraps ours: what ours is told is what counts.
    store.fs.sync_fs._observing = fs._observing
    array = zarr.open_array(store, mode="r")
    for _ in range(2):
        for first in range(0, 64, 4):
            _ = array[first : first + 4]


def make_weights(root: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    rng = np.random.default_rng(SEED)
    for n in range(4):
        save_file({f"l{k}.w": rng.random((1024, 2048), dtype="float32") for k in range(16)}, root / f"w-{n}.weights")


def weights_by_header(fs: Any, root: Path) -> None:
    import numpy as np

    for n in range(4):
        with fs.open(f"{root}/w-{n}.weights") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            about = json.loads(file.read(length))
            about.pop("__metadata__", None)
            for name in sorted(about):
                start, end = about[name]["data_offsets"]
                file.seek(8 + length + start)
                np.frombuffer(file.read(end - start), dtype="float32")


def make_shards(root: Path) -> None:
    rng = random.Random(SEED)
    for n in range(SHARDS):
        with tarfile.open(root / f"shard-{n}.t", "w") as shard:
            for k in range(40):
                member = tarfile.TarInfo(f"{k}.jpg")
                member.size = rng.randrange(100 * KIB, 300 * KIB)
                shard.addfile(member, BytesIO(rng.randbytes(member.size)))


def shards_by_tarfile(fs: Any, root: Path) -> None:
    for n in range(8):
        with fs.open(f"{root}/shard-{n}.t") as file, tarfile.open(fileobj=file, mode="r|") as shard:
            for member in shard:
                reader = shard.extractfile(member)
                assert reader is not None
                reader.read()


def make_zips(root: Path) -> None:
    rng = random.Random(SEED)
    for n in range(3):
        with zipfile.ZipFile(root / f"{n}.archive", "w") as archive:
            for k in range(400):
                archive.writestr(f"{k}.bin", rng.randbytes(rng.randrange(50 * KIB, 200 * KIB)))


def members_by_zipfile(fs: Any, root: Path) -> None:
    rng = random.Random(SEED)
    for n in range(3):
        with fs.open(f"{root}/{n}.archive") as file, zipfile.ZipFile(file) as archive:
            for name in rng.sample(archive.namelist(), 60):
                archive.read(name)


def make_lines(root: Path) -> None:
    line = json.dumps({"custom_id": "x" * 20, "body": {"input": "y" * 400}}) + "\n"
    for n in range(3):
        (root / f"{n}.jsonl").write_text(line * (40 * MIB // len(line)))


def lines_by_json(fs: Any, root: Path) -> None:
    for n in range(3):
        with fs.open(f"{root}/{n}.jsonl") as file:
            for line in file:
                json.loads(line)


def samples_by_index(fs: Any, root: Path) -> None:
    """A data set by index, as torch's: each item opens the shard, reads a member, and closes it."""
    places: list[tuple[str, int, int]] = []
    for n in range(SHARDS):
        with tarfile.open(root / f"shard-{n}.t") as shard:
            places += [(f"{root}/shard-{n}.t", member.offset_data, member.size) for member in shard]
    for path, start, size in random.Random(SEED).sample(places, 800):
        with fs.open(path) as file:
            file.seek(start)
            file.read(size)


def _worker(root: str, process: str, shards: list[int], told: Any) -> None:
    def read(fs: Any, root: Path) -> None:
        for n in shards:
            with fs.open(f"{root}/shard-{n}.t") as file, tarfile.open(fileobj=file, mode="r:") as shard:
                for member in shard:
                    reader = shard.extractfile(member)
                    assert reader is not None
                    reader.read()

    told.put(to_json(recorded(Path(root), process, read)))


def epochs_by_workers(root: Path) -> list[Event]:
    """A loader of two workers that are started anew in each of three epochs, each with its shards of a new order."""
    from support.traces import from_json

    rng, events = random.Random(SEED), list[Event]()
    context = multiprocessing.get_context("spawn")
    for epoch in range(3):
        order = rng.sample(range(SHARDS), SHARDS)
        told = context.Queue()
        workers = [
            context.Process(target=_worker, args=(str(root), f"worker-{w}#{epoch}", order[w::2], told))
            for w in range(2)
        ]
        for worker in workers:
            worker.start()
        for _ in workers:
            events += from_json(told.get())
        for worker in workers:
            worker.join()
    return events


WORKS: dict[str, tuple[Callable[[Path], None], Callable[[Any, Path], None] | None, tuple[str, ...]]] = {
    "columns_by_pyarrow": (make_tables, columns_by_pyarrow, ("pyarrow",)),
    "batches_by_pyarrow": (make_tables, batches_by_pyarrow, ("pyarrow",)),
    "tables_by_pandas": (make_tables, tables_by_pandas, ("pandas", "pyarrow")),
    "csv_by_pandas": (make_csv, csv_by_pandas, ("pandas",)),
    "array_by_zarr": (make_array, array_by_zarr, ("zarr",)),
    "weights_by_header": (make_weights, weights_by_header, ("safetensors",)),
    "shards_by_tarfile": (make_shards, shards_by_tarfile, ()),
    "members_by_zipfile": (make_zips, members_by_zipfile, ()),
    "lines_by_json": (make_lines, lines_by_json, ()),
    "samples_by_index": (make_shards, samples_by_index, ()),
    "epochs_by_workers": (make_shards, None, ()),
}


def main(names: list[str]) -> None:
    RECORDED.mkdir(exist_ok=True)
    for name in names or WORKS:
        make, read, packages = WORKS[name]
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            make(root)
            events = epochs_by_workers(root) if read is None else recorded(root, "a", read)
        told = {"python": sys.version.split()[0], **{package: version(package) for package in packages}}
        path = RECORDED / f"{name}.json"
        path.write_text(json.dumps({"recorded_with": told, **to_json(events)}, separators=(",", ":")) + "\n")
        sys.stdout.write(f"{name}: {len(events)} events, {path.stat().st_size // 1024} KiB\n")


if __name__ == "__main__":
    if not set(sys.argv[1:]) <= WORKS.keys():
        sys.exit(__doc__)
    main(sys.argv[1:])
