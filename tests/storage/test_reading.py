"""The read path: right bytes through every kind of file system, and none at all where they would be wrong."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from holdshort.profiles import TRAINING, Access, resolve
from holdshort.storage.errors import ObjectChanged, SettingsError, StoreUnavailable
from holdshort.storage.filesystem import ProfiledFileSystem, TrainingFileSystem
from holdshort.storage.reading.any_file_system import AnyFileSystem
from holdshort.storage.reading.buffers import Buffers
from holdshort.storage.reading.reader import Reader
from holdshort.storage.s3.signing import can_sign
from support.faulty_gcs import FaultyGcs
from support.faulty_s3 import FaultyS3
from support.listening import CERTIFICATE
from support.reading import reads_right
from support.waiting import eventually

MIB = 2**20
CONTENT = random.Random(11).randbytes(9 * MIB + 12345)
PART = MIB


@pytest.fixture
def gcs() -> Iterator[FaultyGcs]:
    with FaultyGcs().serving() as serving:
        yield serving


class Far:
    """A file system behind, and a folder in it."""

    def __init__(self, kind: str, fs: Any, folder: str, options: dict[str, Any]) -> None:
        self.kind, self.fs, self.folder, self.options = kind, fs, folder, options

    def put(self, name: str, content: bytes) -> str:
        path = f"{self.folder}/{name}"
        self.fs.pipe_file(path, content)
        return path

    def with_profile(self, protocol: str = "training", **values: Any) -> Any:
        cls = {"training": TrainingFileSystem, "auto": ProfiledFileSystem}[protocol]
        return cls(fs=self.fs, skip_instance_cache=True, **{"part_bytes": PART, **values})


@pytest.fixture(params=["s3", "s3 by its own methods", "gs", "gs by its own methods", "local", "memory"])
def far(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Far:
    kind: str = request.param
    if kind in ("local", "memory"):
        protocol = "file" if kind == "local" else "memory"
        fs = fsspec.filesystem(protocol, skip_instance_cache=True)
        fs.makedirs(str(tmp_path / "far"), exist_ok=True)
        return Far(kind, fs, str(tmp_path / "far"), {})
    if kind.startswith("gs"):
        # The emulator tells no generation with an object's bytes, so all is read by gcsfs's own methods.
        far = request.getfixturevalue("gcs" if kind == "gs" else "gcs_emulator")
        options = {"use_listings_cache": False, **far.options}
        fs = fsspec.filesystem("gs", **{**options, "skip_instance_cache": True})
        return Far(kind, fs, f"{'bkt' if kind == 'gs' else far.BUCKET}/{tmp_path.name}", options)
    server = request.getfixturevalue("s3_server")
    url: str = request.getfixturevalue("s3_url")
    options = {"use_listings_cache": False, **server.options}
    fs = fsspec.filesystem("s3", skip_instance_cache=True, **options)
    if kind != "s3":
        monkeypatch.setattr("holdshort.storage.reading.signed_s3.SignedS3.suits", lambda fs: False)
    return Far(kind, fs, url.removeprefix("s3://") + "/far", options)


def test_what_is_read_is_what_is_there_however_it_is_read(far: Far) -> None:
    path = far.put("a.bin", CONTENT)
    fs = far.with_profile()
    assert fs.cat_file(path) == CONTENT
    with fs.open(path) as file:
        assert file.read() == CONTENT
        assert file.read(1) == b""
    with fs.open(path) as file:
        assert b"".join(iter(lambda: file.read(100_000), b"")) == CONTENT
    with far.with_profile(cache="none").open(path) as file:
        assert b"".join(iter(lambda: file.read(300_000), b"")) == CONTENT
    with fs.open(path) as file:
        room = bytearray(len(CONTENT) + 5)
        assert file.readinto(room) == len(CONTENT)
        assert room[: len(CONTENT)] == CONTENT


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_calls_does_what_a_local_file_does(far: Far, seed: int) -> None:
    rng = random.Random(seed)
    path = far.put("a.bin", CONTENT)
    model = io.BytesIO(CONTENT)
    values = {"read_ahead": rng.choice(["adaptive", "whole", "none"]), "cache": rng.choice(["none", "disk"])}
    with far.with_profile(**values).open(path) as file:
        for _ in range(60):
            match rng.randrange(6):
                case 0:
                    offset, whence = rng.choice([(rng.randrange(len(CONTENT) + 99), 0), (-rng.randrange(5000), 2)])
                    assert file.seek(offset, whence) == model.seek(offset, whence)
                case 1 | 2:
                    length = rng.choice([0, 1, 700, 65536, 300_000, 3 * MIB])
                    assert file.read(length) == model.read(length)
                case 3:
                    room = [bytearray(rng.choice([10, 200_000])) for _ in range(2)]
                    length = len(room[0])
                    room[1] = bytearray(length)
                    assert file.readinto(room[0]) == model.readinto(room[1])
                    assert room[0] == room[1]
                case 4:
                    assert file.readline() == model.readline()
                case _:
                    assert file.tell() == model.tell()


@pytest.mark.parametrize("size", [0, 1, 255, 256 * 1024, 256 * 1024 + 1, MIB])
def test_objects_of_every_size_even_empty_ones(far: Far, size: int) -> None:
    path = far.put(f"{size}.bin", CONTENT[:size])
    fs = far.with_profile()
    with fs.open(path) as file:
        assert file.size == size
        assert file.read() == CONTENT[:size]
    assert fs.cat_file(path) == CONTENT[:size]
    assert fs.cat_file(path, start=-3) == CONTENT[:size][-3:]
    assert fs.cat_file(path, start=size + 5) == b""


def test_a_read_past_the_end_is_what_a_local_file_gives(far: Far) -> None:
    path = far.put("a.bin", CONTENT[:1000])
    fs = far.with_profile()
    with fs.open(path) as file:
        assert file.seek(5000) == 5000
        assert (file.read(), file.read(10), file.readline(), file.readinto(bytearray(5))) == (b"", b"", b"", 0)
        assert file.tell() == 5000
        with pytest.raises(ValueError, match="before the beginning of"):
            file.seek(-1)
    assert fs.cat_file(path, start=990, end=2000) == CONTENT[990:1000]
    assert fs.cat_ranges([path] * 3, [990, 1000, 3000], [5000, 1001, 4000]) == [CONTENT[990:1000], b"", b""]


def test_a_folder_is_said_to_be_one(far: Far) -> None:
    if far.kind == "local":
        Path(far.folder, "folder").mkdir()
    far.put("folder/a.bin", CONTENT[:1000])
    for act in (far.with_profile().open, far.with_profile().cat_file):
        with pytest.raises(IsADirectoryError, match=r"/folder is a folder; name an object in it"):
            act(f"{far.folder}/folder")


@pytest.mark.parametrize("name", ["a b+c%20d.bin", "ü ☃.bin", "q?x=1&y#z.bin", "~tilde/(x)'!*.bin", "name=1/day=2.bin"])
def test_names_with_every_kind_of_sign(far: Far, name: str) -> None:
    if far.kind == "local":
        Path(far.folder, name).parent.mkdir(parents=True, exist_ok=True)
    path = far.put(name, CONTENT[:400_000])
    assert far.with_profile().cat_file(path, start=300_000) == CONTENT[300_000:400_000]


def test_a_version_that_the_path_names_is_left_to_the_file_system(s3_server: Any) -> None:
    fs = fsspec.filesystem("s3", skip_instance_cache=True, version_aware=True, **s3_server.options)
    assert can_sign(fs, "bucket/key")
    assert not can_sign(fs, "bucket/key?versionId=7")
    assert not can_sign(fs, "arn:aws:s3:us-west-2:123456789012:accesspoint/mine/key")
    assert not can_sign(fs, "data--use1-az4--x-s3/key")


def test_text_lines_and_tables_are_read_through_the_prefix(far: Far, tmp_path: Path) -> None:
    lines = "".join(f"line {n} — ä\n" for n in range(50_000))
    path = far.put("a.txt", lines.encode())
    with far.with_profile().open(path, "r", encoding="utf-8") as file:
        assert "".join(file) == lines
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    table = pa.table({"n": list(range(100_000)), "text": [f"row {n}" for n in range(100_000)]})
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=10_000)
    path = far.put("t.parquet", (tmp_path / "t.parquet").read_bytes())
    assert parquet.read_table(path, filesystem=far.with_profile("auto"), columns=["n"])["n"].to_pylist()[-1] == 99_999


def test_many_objects_and_ranges_at_once(far: Far) -> None:
    if far.kind == "gs by its own methods":
        pytest.skip("the emulator lets so many connections at once wait for a minute")
    names = {far.put(f"{n}.bin", CONTENT[n * 1000 : (n + 1) * 1000]): n for n in range(40)}
    fs = far.with_profile()
    assert fs.cat(list(names)) == {path: CONTENT[n * 1000 : (n + 1) * 1000] for path, n in names.items()}
    missing = f"{far.folder}/none.bin"
    with pytest.raises(FileNotFoundError, match=r"none\.bin"):
        fs.cat([*names, missing])
    assert len(fs.cat([*names, missing], on_error="omit")) == 40
    assert isinstance(fs.cat([*names, missing], on_error="return")[missing], FileNotFoundError)
    path, rng = far.put("a.bin", CONTENT), random.Random(3)
    starts = [rng.randrange(len(CONTENT)) for _ in range(60)]
    ends = [start + rng.choice([0, 1, 4000, 2 * MIB]) for start in starts]
    assert fs.cat_ranges([path] * 60, starts, ends) == [CONTENT[a:b] for a, b in zip(starts, ends, strict=True)]
    found = fs.cat_ranges([path, missing, path], [0, 0, -5], [3, 3, None])
    assert [found[0], found[2]] == [CONTENT[:3], CONTENT[-5:]]
    assert isinstance(found[1], FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges([missing], [0], [3], on_error="raise")
    with pytest.raises(ValueError, match="2 paths, 1 starts"):
        fs.cat_ranges([path, path], [0], [1, 1])


def test_what_is_not_there_is_said_when_it_is_opened(far: Far) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.bin"):
        far.with_profile().open(f"{far.folder}/none.bin")


def test_an_object_that_is_replaced_while_it_is_read_gives_an_error_and_never_a_mixture(far: Far) -> None:
    path = far.put("a.bin", CONTENT)
    fs = far.with_profile(read_ahead="none")
    with fs.open(path) as file:
        assert file.read(300_000) == CONTENT[:300_000]
        other = bytes(reversed(CONTENT))
        far.put("a.bin", other)
        if far.kind == "memory":
            pytest.skip("a file in memory has no version but its time, which may be the same")
        with pytest.raises(ObjectChanged, match=r"a\.bin was replaced"):
            file.read(2 * MIB)
    with fs.open(path) as file:
        assert file.read() == other
    # Nothing of it was handed out yet, so it is simply read anew; unless it is in the cache and counts as unchanged.
    fs = far.with_profile(cache="none")
    assert fs.cat_file(path, start=MIB, end=2 * MIB) == other[MIB : 2 * MIB]
    far.put("a.bin", CONTENT)
    assert fs.cat_file(path, start=MIB, end=2 * MIB) == CONTENT[MIB : 2 * MIB]


def test_writing_goes_to_the_file_system_behind_and_is_seen_at_once(far: Far) -> None:
    fs = far.with_profile()
    path = f"{far.folder}/new.bin"
    with fs.open(path, "wb") as file:
        file.write(b"first")
    assert fs.cat_file(path) == b"first"
    fs.pipe_file(path, b"second one")
    assert fs.cat_file(path) == b"second one"
    assert fs.exists(path)
    assert fs.info(path)["size"] == 10
    fs.rm(path)
    assert not fs.exists(path)
    with pytest.raises(FileNotFoundError):
        fs.cat_file(path)


def test_a_transaction_is_the_file_systems_own(far: Far) -> None:
    fs = far.with_profile()
    path = f"{far.folder}/in-transaction.bin"
    with fs.transaction:
        with fs.open(path, "wb") as file:
            file.write(b"all of it")
        assert far.kind == "memory" or not fs.exists(path)
    assert fs.cat_file(path) == b"all of it"


def test_sixteen_threads_read_one_object_right(far: Far) -> None:
    path = far.put("a.bin", CONTENT)
    fs = far.with_profile()
    wrong: list[int] = []

    def read(seed: int) -> None:
        rng = random.Random(seed)
        with fs.open(path) as file:
            for _ in range(10):
                start = rng.randrange(len(CONTENT))
                file.seek(start)
                if file.read(200_000) != CONTENT[start : start + 200_000]:
                    wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_process_reads_with_what_its_parent_has_used(s3_server: Any, s3_url: str, method: str) -> None:
    options = {"use_listings_cache": False, **s3_server.options}
    fs = TrainingFileSystem(target_protocol="s3", target_options=options, part_bytes=PART)
    path = f"{s3_url.removeprefix('s3://')}/child.bin"
    fs.pipe_file(path, CONTENT)
    assert fs.cat_file(path) == CONTENT
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    children = [context.Process(target=reads_right, args=(fs, path, CONTENT, queue)) for _ in range(2)]
    for child in children:
        child.start()
    assert [queue.get(timeout=60) for _ in children] == [True, True]
    for child in children:
        child.join(timeout=30)
        assert child.exitcode == 0
    assert fs.cat_file(path) == CONTENT


def test_the_prefix_works_in_a_url(s3_server: Any, s3_url: str) -> None:
    with fsspec.open(f"{s3_url}/url.bin", "wb", **s3_server.options) as file:
        file.write(CONTENT)
    for prefix in ("training", "serving", "checkpoint", "auto"):
        with fsspec.open(f"{prefix}::{s3_url}/url.bin", s3=s3_server.options, **{prefix: {"part_bytes": PART}}) as file:
            assert file.read() == CONTENT
    fs, path = fsspec.url_to_fs(f"training::{s3_url}/url.bin", s3=s3_server.options)
    assert fs.unstrip_protocol(path) == f"training::{s3_url}/url.bin"


# -- a store on its worst days ---------------------------------------------------------------------------


@pytest.fixture
def store() -> Iterator[FaultyS3]:
    with FaultyS3(CONTENT).serving() as serving:
        yield serving


@pytest.fixture
def fs(store: FaultyS3) -> TrainingFileSystem:
    return TrainingFileSystem(target_protocol="s3", target_options=store.options, part_bytes=PART)


@pytest.mark.parametrize("fault", ["503", "500", "429", "cut", "reset"])
def test_passing_faults_cost_another_try_and_no_byte(store: FaultyS3, fs: TrainingFileSystem, fault: str) -> None:
    for name in ("a", "b"):
        store.faults.extend([fault, fault, "", fault])
        assert fs.cat_file(f"bkt/{name}") == CONTENT
    with fs.open("bkt/c") as file:
        store.faults.extend(["", fault, fault])
        assert b"".join(iter(lambda: file.read(400_000), b"")) == CONTENT
    fs = TrainingFileSystem(target_protocol="s3", target_options=store.options, part_bytes=4 * PART, cache="none")
    for length in (MIB, 300_000):
        with fs.open("bkt/d") as file:
            store.faults.extend(["", fault, fault])
            assert b"".join(iter(lambda length=length: file.read(length), b"")) == CONTENT


def test_by_https_the_authorities_count_that_botocore_is_told_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with FaultyS3(CONTENT).serving(by_https=True) as store:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(CERTIFICATE))
        fs = TrainingFileSystem(target_protocol="s3", target_options=store.options, part_bytes=PART)
        assert fs.cat_file("bkt/a") == CONTENT
        store.faults.extend(["cut", "reset"])
        assert fs.cat_file("bkt/b") == CONTENT
        monkeypatch.delenv("AWS_CA_BUNDLE")
        fs = TrainingFileSystem(target_protocol="s3", target_options=store.options, part_bytes=PART, cache="none")
        with pytest.raises(SettingsError, match=r"is not trusted: .*Name a file with the authorities"):
            fs.cat_file("bkt/a")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "none.pem"))
        fs = TrainingFileSystem(
            target_protocol="s3", target_options=store.options, part_bytes=PART, gap_bytes=2, cache="none"
        )
        with pytest.raises(SettingsError, match=r"AWS_CA_BUNDLE names .*none\.pem"):
            fs.cat_file("bkt/a")


def test_a_part_that_broke_off_goes_on_where_it_broke(store: FaultyS3, fs: TrainingFileSystem) -> None:
    fs.cat_file("bkt/a", start=0, end=1)
    before = fs.reader.traffic.fetched_bytes
    store.faults.append("cut")
    assert fs.cat_file("bkt/a", start=MIB, end=2 * MIB) == CONTENT[MIB : 2 * MIB]
    assert fs.reader.traffic.fetched_bytes - before == MIB


def test_a_store_that_stays_away_is_said_with_what_it_answered(store: FaultyS3, fs: TrainingFileSystem) -> None:
    store.faults.extend(["503"] * 6)
    with pytest.raises(StoreUnavailable, match=r"s3://bkt/a can't be read, after 6 tries: status 503 \(Said\)"):
        fs.cat_file("bkt/a")


def test_an_answer_with_other_bytes_than_asked_for_is_never_handed_out(store: FaultyS3, fs: TrainingFileSystem) -> None:
    with fs.open("bkt/a") as file:
        store.faults.append("other range")
        with pytest.raises(StoreUnavailable, match="does not serve ranges"):
            file.read()
    with fs.open("bkt/b") as file:
        file.seek(2 * MIB)
        store.faults.append("no range")
        with pytest.raises(StoreUnavailable, match="does not serve ranges"):
            file.read(MIB)


def test_a_read_that_failed_can_be_tried_again_on_the_same_file(store: FaultyS3) -> None:
    # Without read-ahead, or another part than the one that is waited for may take the fault.
    options = {"target_protocol": "s3", "target_options": store.options, "part_bytes": PART, "read_ahead": "none"}
    with TrainingFileSystem(**options, cache="none").open("bkt/a") as file:
        store.faults.append("other range")
        with pytest.raises(StoreUnavailable):
            file.read(400_000)
        file.seek(0)
        assert file.read(400_000) == CONTENT[:400_000]
        assert file.read() == CONTENT[400_000:]


def test_an_object_that_changes_between_two_parts_is_an_error(store: FaultyS3, fs: TrainingFileSystem) -> None:
    with fs.open("bkt/a") as file:
        store.faults.extend(["", "", "changed"])
        with pytest.raises(ObjectChanged):
            file.read()


def test_a_refusal_names_the_object_and_what_to_look_at(store: FaultyS3, fs: TrainingFileSystem) -> None:
    store.faults.append("403")
    with pytest.raises(
        PermissionError, match=r"s3://bkt/a may not be read: status 403 \(Said\)\. Check the credentials"
    ):
        fs.open("bkt/a")


def test_no_secret_shows(fs: TrainingFileSystem, store: FaultyS3, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="holdshort")
    store.faults.extend(["503"] * 6)
    with pytest.raises(StoreUnavailable) as caught:
        fs.cat_file("bkt/a")
    assert "Signature" not in str(caught.value) + caplog.text
    assert "secret" not in repr(fs)


# -- memory, and what is fetched -------------------------------------------------------------------------


def _reader(store: FaultyS3, buffers: Buffers) -> Reader:
    return Reader(fsspec.filesystem("s3", **store.options), buffers, connections=16)


def _access(**values: Any) -> Access:
    return resolve(TRAINING, arguments={"part_bytes": PART, **values}).access


def test_all_open_files_together_stay_within_the_memory_budget(store: FaultyS3) -> None:
    buffers = Buffers(3 * MIB)
    reader = _reader(store, buffers)
    files = [reader.open(f"bkt/{n}", _access(read_ahead="whole")) for n in range(8)]
    most = 0
    for _ in range(40):
        for file in files:
            file.read(100_000)
            most = max(most, buffers.taken_bytes)
    assert 0 < most <= 3 * MIB
    for file in files:
        assert file.read() == CONTENT[40 * 100_000 :]
        file.close()
    assert buffers.taken_bytes == 0 or not _still(buffers)


@pytest.mark.parametrize("length", [256 * 1024, 300_000, MIB])
def test_reads_in_order_of_one_length_are_not_copied_and_stay_what_they_are(store: FaultyS3, length: int) -> None:
    buffers = Buffers(64 * MIB)
    with _reader(store, buffers).open("bkt/a", _access(part_bytes=4 * MIB)) as file:
        found, same = list[bytes](), 0
        while data := file.read(length):
            if len(found) in (2, 4):
                again = _again(file, len(data))
                assert again == data
                same += again is data
            found.append(data)
        assert same, "what is read once more is the same object, since it was never copied"
    assert b"".join(found) == CONTENT
    assert not _still(buffers)
    assert b"".join(found) == CONTENT, "what was handed out is its reader's"


def _again(file: Any, length: int) -> bytes:
    file.seek(-length, io.SEEK_CUR)
    return file.read(length)


_MADE = """
import os, sys
from holdshort.storage.reading.heap import unread
MIB = 2**20
each = lambda tasks: [task() for task in tasks]
made = [piece for _ in range(6) for piece in unread([MIB] * 8, 48 * MIB, each)]
for number, piece in enumerate(made):
    piece.memory[:] = bytes([number]) * MIB
assert [piece.read() for piece in made] == [bytes([number]) * MIB for number in range(48)]
huge = next(line for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHugePages"))
print(int(huge.split()[1]) // 1024)
"""


@pytest.mark.parametrize("gives_back", [False, True], ids=["glibc", "an allocator that keeps nothing"])
def test_bytes_that_are_made_lie_on_huge_pages_where_there_are_some(gives_back: bool) -> None:
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not pages.exists() or "[never]" in pages.read_text():
        pytest.skip("this system has no huge pages")
    environment = {**os.environ, **({"MALLOC_MMAP_THRESHOLD_": "65536"} if gives_back else {})}
    ran = subprocess.run([sys.executable, "-c", _MADE], env=environment, capture_output=True, text=True, check=True)
    if not gives_back and os.confstr("CS_GNU_LIBC_VERSION"):
        assert int(ran.stdout) >= 24, "of 48 MiB"


_SHORT = """
import json, os, resource
from holdshort.storage.filesystem import TrainingFileSystem
MIB = 2**20
fs = TrainingFileSystem(
    target_protocol="s3", target_options=json.loads(os.environ["OPTIONS"]),
    part_bytes=MIB, cache="none", read_ahead="whole",
)
fs.cat_file("bkt/b")  # so that there are threads
with fs.open("bkt/a") as file:
    begin = b""
    used = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
    for more in (0, 3 * MIB):
        resource.setrlimit(resource.RLIMIT_AS, (used + more, -1))
        try:
            begin += file.read(MIB)
        except (MemoryError, RuntimeError, OSError) as error:
            print(type(error).__name__)
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    rest = b"".join(iter(lambda: file.read(MIB), b""))
assert begin + rest == open("/dev/stdin", "rb").read()
"""


def test_memory_that_was_short_for_a_moment_fails_that_read_and_no_other(store: FaultyS3) -> None:
    environment = {**os.environ, "OPTIONS": json.dumps(store.options)}
    ran = subprocess.run(
        [sys.executable, "-c", _SHORT], env=environment, input=CONTENT, capture_output=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr.decode()
    assert ran.stdout, "at least one read had no memory"


def test_reads_of_changing_lengths_find_what_was_fetched_for_others(store: FaultyS3) -> None:
    rng, buffers, model = random.Random(3), Buffers(64 * MIB), io.BytesIO(CONTENT)
    with _reader(store, buffers).open("bkt/a", _access(part_bytes=2 * MIB, read_ahead="whole")) as file:
        while data := file.read(length := rng.choice([100, 256 * 1024, 500_000, MIB, 2 * MIB, 3 * MIB])):
            assert data == model.read(length)
            room = bytearray(rng.choice([1, 300_000]))
            assert file.readinto(room) == model.readinto(copy := bytearray(len(room)))
            assert room == copy
    assert not _still(buffers)


def test_bytes_that_are_made_for_reads_stay_within_the_memory_budget(store: FaultyS3) -> None:
    buffers = Buffers(6 * MIB)
    reader = _reader(store, buffers)
    files = [reader.open(f"bkt/{n}", _access(part_bytes=MIB, read_ahead="whole")) for n in range(4)]
    most = 0
    while data := [file.read(MIB) for file in files]:
        most = max(most, buffers.taken_bytes)
        assert len(set(data)) == 1
        if not data[0]:
            break
    assert MIB < most <= 3 * MIB, "more than the files' first bytes, and not what is for those who write"
    for file in files:
        file.close()
    assert not _still(buffers)


def _still(buffers: Buffers) -> bool:
    """Whether something stays taken: parts that were on their way are given back when they have ended."""
    eventually(lambda: buffers.taken_bytes == 0, timeout=10, what="all buffers are given back")
    return False


def test_more_objects_of_many_parts_than_there_are_connections(store: FaultyS3) -> None:
    store.contents.update({f"bkt/large/{n}": CONTENT for n in range(20)})
    reader = Reader(fsspec.filesystem("s3", **store.options), Buffers(64 * MIB), connections=2)
    found = reader.get_each(list(store.contents), lambda _: _access())
    assert len(found) == 20
    assert all(each == CONTENT for each in found.values())


def test_random_reads_fetch_little_more_than_was_asked_for(store: FaultyS3) -> None:
    reader = _reader(store, Buffers(64 * MIB))
    rng = random.Random(5)
    with reader.open("bkt/a", _access()) as file:
        before = reader.traffic.fetched_bytes
        for _ in range(100):
            file.seek(rng.randrange(len(CONTENT) - 65536))
            file.read(65536)
    assert reader.traffic.fetched_bytes - before <= 1.5 * 100 * 65536


def test_members_of_an_archive_come_by_hardly_more_than_one_request_each(store: FaultyS3) -> None:
    rng, room = random.Random(9), io.BytesIO()
    members = {f"m{n}": rng.randbytes(rng.randint(60_000, 90_000)) for n in range(60)}
    with zipfile.ZipFile(room, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    store.contents["bkt/zip"] = room.getvalue()
    wanted = rng.sample(sorted(members), 30)
    reader = _reader(store, Buffers(64 * MIB))
    with reader.open("bkt/zip", _access(gap_bytes=100_000)) as file, zipfile.ZipFile(file) as archive:
        before = store.gets
        assert all(archive.read(name) == members[name] for name in wanted)
    assert store.gets - before <= 1.25 * len(wanted), "the first of them, which take three each, tell of the others"


def test_a_header_that_is_read_and_left_costs_little_more_than_the_header(store: FaultyS3) -> None:
    reader = _reader(store, Buffers(64 * MIB))
    with reader.open("bkt/a", _access()) as file:
        file.read(8)
        file.read(1000)
    assert store.gets == 1


def test_what_is_known_to_be_unchanged_is_not_asked_for_again(store: FaultyS3) -> None:
    reader = _reader(store, Buffers(64 * MIB))
    reader.get("bkt/a", _access(), 0, 10)
    assert store.gets == 1
    for _ in range(3):
        assert reader.size("bkt/a", _access()) == len(CONTENT)
    assert store.gets == 1
    reader.size("bkt/a", _access(freshness_s=0.0))
    assert store.gets == 2


def test_objects_like_their_siblings_come_by_one_request_each(store: FaultyS3) -> None:
    sizes = {
        "bkt/set/a": 600_000,
        "bkt/set/b": 600_000,
        "bkt/set/smaller": 1000,
        "bkt/set/c": 1000,
        "bkt/set/larger": 900_000,
    }
    store.contents.update({path: CONTENT[:size] for path, size in sizes.items()})
    reader = _reader(store, Buffers(64 * MIB))
    asked: list[int] = []
    for path, size in sizes.items():
        before = store.gets
        assert reader.get(path, _access()) == CONTENT[:size]
        asked.append(store.gets - before)
    assert asked == [2, 1, 1, 1, 2]
    eventually(lambda: store.served_bytes == sum(sizes.values()))  # it counts what it has sent


# -- auto:: ----------------------------------------------------------------------------------------------


def test_auto_goes_by_the_path_and_then_by_what_it_sees(far: Far, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="holdshort.storage.observing")
    fs = far.with_profile("auto")
    weights = far.put("w.safetensors", CONTENT[:1000])
    assert fs.explain(weights)[0].source == "path"
    paths = [far.put(f"{n}.jpg", CONTENT[:5000]) for n in range(12)]
    assert fs.explain(paths[0])[1].profile == "plain"
    for _ in range(2):
        for path in paths:
            with fs.open(path) as file:
                assert file.read() == CONTENT[:5000]
    choice, plan = fs.explain(paths[0])
    assert (plan.profile, choice.source) == ("training", "pattern")
    assert "many small objects, again and again" in choice.why
    assert f"{far.folder} is read by the profile plain from now on: many small objects: 8 objects" in caplog.text
    assert f"{far.folder} is read by the profile training from now on: many small objects, again" in caplog.text
    far.put("3.jpg", CONTENT[5000:12000])
    fresh = far.with_profile("auto")
    for _ in range(2):
        assert fresh.cat_file(paths[3]) == CONTENT[5000:12000]


def test_auto_asks_each_time_once_an_object_has_changed(far: Far) -> None:
    fs = far.with_profile("auto")
    path = far.put("state.bin", CONTENT[:MIB])
    for turn in range(4):
        with fs.open(path) as file:
            assert file.read() == CONTENT[: MIB + turn]
        far.put("state.bin", CONTENT[: MIB + turn + 1])
    choice, plan = fs.explain(path)
    assert choice.why.startswith("objects that change")
    assert plan.access.freshness_s == 0.0


def test_auto_switches_while_a_file_is_open(store: FaultyS3) -> None:
    fs = ProfiledFileSystem(target_protocol="s3", target_options=store.options)
    rng = random.Random(8)
    with fs.open("bkt/data/a.bin") as file:
        for _ in range(20):
            file.seek(rng.randrange(len(CONTENT) - 5000))
            file.read(5000)
        assert fs.explain("bkt/data/a.bin")[0].why.startswith("at random all over")
        file.seek(0)
        assert file.read() == CONTENT


# -- wrong use -------------------------------------------------------------------------------------------


def test_a_wrong_option_or_profile_is_refused_with_what_there_is() -> None:
    with pytest.raises(SettingsError, match="there is no value 'parts'; there are part_bytes"):
        fsspec.filesystem("training", target_protocol="memory", parts=3)
    with pytest.raises(SettingsError, match="part_bytes is 3; it has to be a number from 65536"):
        fsspec.filesystem("training", target_protocol="memory", part_bytes=3)
    with pytest.raises(SettingsError, match="No profile is called 'trainig'; there are auto, training"):
        fsspec.filesystem("auto", target_protocol="memory", profile="trainig")
    with pytest.raises(SettingsError, match=r"as in training::s3://bucket/key"):
        fsspec.filesystem("training")


def test_a_file_of_no_known_size_is_refused() -> None:
    class Endless:
        protocol = "endless"

        def invalidate_cache(self, path: str) -> None:
            return

        def info(self, path: str) -> dict[str, Any]:
            return {"type": "file", "size": None}

    with pytest.raises(StoreUnavailable, match="no known size"):
        AnyFileSystem(Endless()).first("a", 10)


def test_the_first_bytes_of_open_files_count_in_the_budget(tmp_path: Path) -> None:
    buffers = Buffers(MIB)
    (tmp_path / "a.bin").write_bytes(CONTENT)
    fs = fsspec.filesystem("file")
    reader = Reader(fs, buffers, connections=4)
    files = [reader.open(str(tmp_path / "a.bin"), Access()) for _ in range(8)]
    assert buffers.taken_bytes == MIB, "of eight heads of 256 KiB four were kept"
    assert all(file.read(1000) == CONTENT[:1000] for file in files)
    for file in files:
        file.close()
    assert buffers.taken_bytes == 0
