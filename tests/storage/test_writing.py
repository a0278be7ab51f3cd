"""The write path: an object is there as a whole or not at all, whatever happens to who writes it."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdshort.profiles import Access
from holdshort.storage.errors import StoreError, StoreUnavailable
from holdshort.storage.filesystem import CheckpointFileSystem
from holdshort.storage.reading.buffers import Buffers
from holdshort.storage.reading.reader import Reader
from holdshort.storage.writing.parts import LEAST_PART, MOST_BYTES, MOST_PART, MOST_PARTS, even_part, growing_part
from holdshort.storage.writing.writer import Writer
from support.faulty_gcs import FaultyGcs
from support.faulty_s3 import FaultyS3
from support.servers import SeaweedServer
from support.waiting import eventually
from support.writing import leaves_what_is_not_its_own, writes_right

MIB = 2**20
PART = 5 * MIB
CONTENT = random.Random(12).randbytes(11 * MIB + 4321)
"""Two parts and a rest."""


class Far:
    """A file system with a profile, a folder in it, and what it keeps that nobody sees."""

    def __init__(self, kind: str, protocol: str, options: dict[str, Any], folder: str, client: Any = None) -> None:
        self.kind, self.protocol, self.options, self.folder = kind, protocol, options, folder
        self._client = client
        self.begun: Callable[[], list[str]] = list
        self.fs = self.with_profile()

    def with_profile(self, **values: Any) -> Any:
        return CheckpointFileSystem(
            target_protocol=self.protocol, target_options=self.options, skip_instance_cache=True,
            **{"part_bytes": PART, **values},
        )  # fmt: skip

    @property
    def behind(self) -> Any:
        return self.fs.fs

    def path(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def url(self, name: str) -> str:
        return f"checkpoint::{self.protocol}://{self.path(name)}"

    def read(self, name: str) -> bytes:
        return bytes(self.behind.cat_file(self.path(name)))

    def names(self) -> list[str]:
        """All that is in the folder, hidden files too."""
        self.behind.invalidate_cache()
        try:
            return sorted(path.rpartition("/")[2] for path in self.behind.ls(self.folder, detail=False))
        except FileNotFoundError:
            return []

    def unfinished(self) -> list[str]:
        """Uploads to the bucket that were neither completed nor aborted."""
        if self._client is None:
            return self.begun()
        prefix = self.folder.partition("/")[2]
        found = self._client.list_multipart_uploads(Bucket=self.folder.partition("/")[0], Prefix=prefix)
        return [upload["Key"] for upload in found.get("Uploads", [])]


@pytest.fixture(params=["s3", "s3 by its own methods", "gs", "local", "memory"])
def far(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Far:
    kind: str = request.param
    if kind == "local":
        (tmp_path / "far").mkdir()
        return Far(kind, "file", {}, str(tmp_path / "far"))
    if kind == "memory":
        return Far(kind, "memory", {}, f"/{tmp_path.name}")
    if kind == "gs":
        return request.getfixturevalue("gs")
    if kind != "s3":
        monkeypatch.setattr("holdshort.storage.reading.signed_s3.SignedS3.suits", lambda fs: False)
    far = _on(request.getfixturevalue("s3_server"), request.getfixturevalue("s3_url"))
    far.kind = kind
    return far


@pytest.fixture
def gs(tmp_path: Path) -> Iterator[Far]:
    pytest.importorskip("gcsfs")
    with FaultyGcs().serving() as server:
        far = Far("gs", "gs", {**server.options, "use_listings_cache": False}, f"bkt/{tmp_path.name}/far")
        far.begun = server.begun
        yield far


@pytest.fixture
def s3(s3_server: SeaweedServer, s3_url: str) -> Far:
    return _on(s3_server, s3_url)


def _on(server: SeaweedServer, url: str) -> Far:
    options = {"use_listings_cache": False, "default_block_size": PART, **server.options}
    return Far("s3", "s3", options, url.removeprefix("s3://") + "/far", server.client())


class _Stop(Exception):
    pass


def _fails(opened: Any, *content: Any) -> None:
    """Write into what was opened, in a block that ends by an exception."""
    with pytest.raises(_Stop), opened as file:  # noqa: PT012
        for each in content:
            file.write(each)
        raise _Stop


# -- what is written is what is there ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 300_000, PART, PART + 1, len(CONTENT)])
def test_what_is_written_is_what_is_there_however_it_is_written(far: Far, tmp_path: Path, size: int) -> None:
    content = CONTENT[:size]
    with far.fs.open(far.path("opened"), "wb") as file:
        for start in range(0, size, 1_000_003):
            assert file.write(content[start : start + 1_000_003]) == len(content[start : start + 1_000_003])
        assert file.tell() == size
    with far.fs.open(far.path("at once"), "wb") as file:
        file.write(memoryview(bytearray(content)))
    far.fs.pipe_file(far.path("piped"), content)
    far.fs.pipe({far.path("piped too"): content, far.path("and a small one"): b"small"})
    (tmp_path / "local.bin").write_bytes(content)
    far.fs.put_file(tmp_path / "local.bin", far.path("put"))
    told = fsspec.callbacks.Callback()
    far.fs.put(str(tmp_path / "local.bin"), far.path("put too"), callback=told)
    assert (told.size, told.value) == (1, 1)
    told = fsspec.callbacks.Callback()
    far.fs.put_file(tmp_path / "local.bin", far.path("put too"), callback=told)
    assert (told.size, told.value) == (size, size)
    expected = dict.fromkeys(("opened", "at once", "piped", "piped too", "put", "put too"), content)
    assert {name: far.read(name) for name in far.names()} == {**expected, "and a small one": b"small"}
    assert far.unfinished() == []


@settings(max_examples=10)
@given(
    sizes=st.lists(st.integers(0, 3 * MIB) | st.sampled_from([PART - 1, PART, PART + 1]), max_size=9),
    seed=st.integers(),
)
def test_any_sequence_of_writes_gives_the_same_bytes(shared_s3: Far, sizes: list[int], seed: int) -> None:
    rng = random.Random(seed)
    pieces = []
    with shared_s3.fs.open(shared_s3.path("any"), "wb") as file:
        for size in sizes:
            start = rng.randrange(len(CONTENT) - size)
            pieces.append(CONTENT[start : start + size])
            room = bytearray(pieces[-1])
            file.write(rng.choice([bytes, memoryview])(room))
            room[:] = bytes(size)  # what was given is the caller's again
    assert shared_s3.read("any") == b"".join(pieces)


@pytest.fixture(scope="module")
def shared_s3(s3_server: SeaweedServer) -> Far:
    return _on(s3_server, "s3://holdshort/any-sequence")


def test_a_write_that_fills_all_requests_needs_no_copy(s3: Far) -> None:
    few = s3.with_profile(connections=2)
    buffers: Buffers = few.writer._fetcher.buffers
    with few.open(s3.path("a"), "wb") as file:
        file.write(CONTENT[:5])
        file.write(CONTENT[5:])
    with few.open(s3.path("b"), "wb") as file:
        taken = buffers.taken_bytes
        file.write(memoryview(CONTENT)[: 2 * PART])
        assert buffers.taken_bytes == taken
        file.write(memoryview(CONTENT)[2 * PART :])
    assert (s3.read("a"), s3.read("b")) == (CONTENT, CONTENT)


def test_text_and_compression_go_through_it(far: Far) -> None:
    lines = "".join(f"line {n} — ä\n" for n in range(30_000))
    for name, options in (("a.txt", {}), ("a.txt.gz", {"compression": "infer"}), ("b.txt", {"compression": "bz2"})):
        with far.fs.open(far.path(name), "w", encoding="utf-8", **options) as file:
            file.write(lines)
        with far.fs.open(far.path(name), "r", encoding="utf-8", **options) as file:
            assert file.read() == lines
    assert far.read("a.txt.gz")[:2] == b"\x1f\x8b"
    _fails(far.fs.open(far.path("c.txt.gz"), "wt", compression="infer"), lines)
    _fails(far.fs.open(far.path("c.txt"), "w"), lines)
    assert far.names() == ["a.txt", "a.txt.gz", "b.txt"]


def test_a_table_is_written_through_the_prefix(far: Far) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    table = pa.table({"n": list(range(50_000)), "text": [f"row {n}" for n in range(50_000)]})
    parquet.write_table(table, far.path("t.parquet"), filesystem=far.fs)
    assert parquet.read_table(far.path("t.parquet"), filesystem=far.fs).equals(table)


def test_many_objects_and_folders_are_put_at_once(far: Far, tmp_path: Path) -> None:
    many = {far.path(f"n{n}"): CONTENT[n * 1000 : (n + 1) * 1000] for n in range(30)}
    far.fs.pipe(many)
    assert {far.path(name): far.read(name) for name in far.names()} == many
    tree = {f"d/e{n}/f.bin": CONTENT[: n * 700_000] for n in range(9)}
    for name, content in tree.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    far.fs.put(str(tmp_path / "d"), far.path("tree"), recursive=True)
    assert {name: far.read(name.replace("d/", "tree/")) for name in tree} == tree


# -- nothing of what failed is seen ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, len(CONTENT)])
def test_an_exception_in_the_block_leaves_nothing_visible_and_nothing_behind(far: Far, size: int) -> None:
    _fails(far.fs.open(far.path("a"), "wb"), CONTENT[:size])
    _fails(fsspec.open(far.url("b"), "wb", **_by_protocol(far)), CONTENT[:size])
    _fails(fsspec.open(far.url("c.gz"), "wt", compression="gzip", **_by_protocol(far)), "text " * size)
    _fails(contextlib.closing(far.fs.open(far.path("d"), "wb")), CONTENT[:size])
    file = far.fs.open(far.path("d"), "wb")
    file.write(CONTENT[:size])
    file.discard()
    file.close()
    assert (far.names(), far.unfinished()) == ([], [])
    assert file.closed


def _by_protocol(far: Far) -> dict[str, Any]:
    return {far.protocol: far.options, "checkpoint": {"part_bytes": PART, "skip_instance_cache": True}}


def test_what_was_there_before_stays_when_its_successor_fails(far: Far) -> None:
    far.fs.pipe_file(far.path("a"), b"what was there before")
    _fails(far.fs.open(far.path("a"), "wb"), CONTENT)
    assert far.read("a") == b"what was there before"
    assert far.names() == ["a"]


def test_nothing_is_seen_before_the_file_is_closed(far: Far) -> None:
    file = far.fs.open(far.path("a"), "wb")
    file.write(CONTENT)
    file.flush()
    assert not far.behind.exists(far.path("a"))
    assert far.names() == []
    file.close()
    assert far.read("a") == CONTENT
    file.close()
    file.discard()
    assert far.read("a") == CONTENT
    with pytest.raises(ValueError, match="is closed"):
        file.write(b"more")


def test_closing_while_another_exception_is_handled_is_closing(far: Far) -> None:
    file = far.fs.open(far.path("a"), "wb")
    file.write(b"all of it")
    try:
        next(iter(()))
    except StopIteration:
        file.close()
    assert far.read("a") == b"all of it"

    class Report:
        def __enter__(self) -> None: ...

        def __exit__(self, kind: object, error: object, trace: object) -> None:
            with fsspec.open(far.url("report"), "wb", **_by_protocol(far)) as report:
                report.write(repr(error).encode())

    with pytest.raises(_Stop), Report():
        raise _Stop("why")
    assert far.read("report") == b"_Stop('why')"


def test_a_writer_that_nobody_closes_is_discarded_and_told_of(far: Far) -> None:
    for mode in ("wb", "w"):
        file = far.fs.open(far.path("a"), mode)
        file.write(CONTENT[: 6 * MIB] if mode == "wb" else "text")
        with pytest.warns(ResourceWarning, match="never closed; it is discarded"):
            file = None
    eventually(lambda: far.unfinished() == [], timeout=10, what="the upload is aborted")
    assert far.names() == []


@pytest.mark.parametrize("kind", ["s3", "local"])
def test_a_killed_process_leaves_nothing_visible(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    far = request.getfixturevalue("s3") if kind == "s3" else Far("local", "file", {}, str(tmp_path))
    far.fs.pipe_file(far.path("before"), b"what was there before")
    for name, when in (("before", "finished"), ("new", "writing")):
        _child("is_killed", far.url(name), _by_protocol(far), 12 * MIB, when, code=-9)
    assert far.names() == ["before"]
    assert far.read("before") == b"what was there before"


def test_a_process_that_ends_without_closing_leaves_nothing_behind(s3: Far) -> None:
    _child("leaves_it_open", s3.url("a"), _by_protocol(s3), code=0)
    assert (s3.names(), s3.unfinished()) == ([], [])


def _child(function: str, *args: Any, code: int) -> None:
    """Run a function of support.writing in a process of its own, which ends with this code."""
    program = f"import json, sys; from support.writing import {function} as run; run(*json.loads(sys.argv[1]))"
    folder = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": folder}
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(args)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == code, done.stderr


# -- transactions ----------------------------------------------------------------------------------------


def test_a_transaction_commits_all_at_its_end_and_nothing_when_it_fails(far: Far, tmp_path: Path) -> None:
    (tmp_path / "local.bin").write_bytes(CONTENT)

    def act(*, fails: bool) -> None:
        with far.fs.open(far.path("opened"), "wb") as file:
            file.write(CONTENT)
        with far.fs.open(far.path("text"), "w") as file:
            file.write("text")
        far.fs.pipe(far.path("piped"), b"small")
        far.fs.pipe({far.path("empty"): b""})
        far.fs.put(str(tmp_path / "local.bin"), far.path("put"))
        assert far.names() == []
        if fails:
            raise _Stop

    with pytest.raises(_Stop), far.fs.transaction:
        act(fails=True)
    assert (far.names(), far.unfinished()) == ([], [])
    with far.fs.transaction:
        act(fails=False)
    assert far.names() == ["empty", "opened", "piped", "put", "text"]
    assert [far.read(name) for name in far.names()] == [b"", CONTENT, b"small", CONTENT, b"text"]
    assert far.unfinished() == []
    far.fs.pipe(far.path("after"), b"seen at once")
    assert far.read("after") == b"seen at once"


# -- exclusive -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [5, len(CONTENT)])
def test_an_exclusive_write_is_for_an_object_that_is_not_there(far: Far, tmp_path: Path, size: int) -> None:
    (tmp_path / "local.bin").write_bytes(CONTENT[:size])
    first, second = (far.fs.open(far.path("a"), "xb") for _ in range(2))
    second.write(b"of the second")
    first.write(CONTENT[:size])
    first.close()
    with pytest.raises(FileExistsError):
        second.close()
    acts: list[Callable[[], object]] = [
        lambda: far.fs.open(far.path("a"), "xb").close(),
        lambda: far.fs.pipe_file(far.path("a"), b"other", mode="create"),
        lambda: far.fs.put_file(str(tmp_path / "local.bin"), far.path("a"), mode="create"),
    ]
    for act in acts:
        with pytest.raises(FileExistsError):
            act()
    assert far.read("a") == CONTENT[:size]
    assert (far.names(), far.unfinished()) == (["a"], [])


@pytest.mark.parametrize("kind", ["s3", "gs", "local", "memory"])
def test_of_racing_exclusive_writers_one_wins(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    far = {
        "s3": lambda: request.getfixturevalue("s3"),
        "gs": lambda: request.getfixturevalue("gs"),
        "local": lambda: Far("local", "file", {}, str(tmp_path)),
        "memory": lambda: Far("memory", "memory", {}, f"/{tmp_path.name}"),
    }[kind]()
    start, won = threading.Barrier(8), []

    def write(number: int) -> None:
        file = far.fs.open(far.path("a"), "xb")
        file.write(bytes([number]) * (6 * MIB if number % 2 else 1000))
        start.wait()
        try:
            file.close()
        except FileExistsError:
            return
        won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert far.read("a") == bytes(won) * (6 * MIB if won[0] % 2 else 1000)
    assert (far.names(), far.unfinished()) == (["a"], [])


# -- local files -----------------------------------------------------------------------------------------


@pytest.fixture(params=["unnamed", "hidden"])
def local(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Far:
    """A folder; and one where the file system has no files without names."""
    if request.param == "hidden":
        _keep_hidden(monkeypatch)
    return Far("local", "file", {}, str(tmp_path))


def _keep_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY | os.O_WRONLY)  # as old kernels take it: EISDIR


def test_a_new_file_has_the_mode_of_the_umask_and_one_that_is_replaced_keeps_its_own(local: Far) -> None:
    before = os.umask(0o027)
    try:
        local.fs.pipe_file(local.path("new"), b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(local.path("new")).st_mode) == 0o640
    os.chmod(local.path("new"), 0o606)
    local.fs.pipe_file(local.path("new"), b"y")
    assert stat.S_IMODE(os.stat(local.path("new")).st_mode) == 0o606
    assert local.read("new") == b"y"
    _fails(local.fs.open(local.path("other"), "wb"), CONTENT)
    with local.fs.open(local.path("x"), "xb") as file:
        file.write(b"x")
    with pytest.raises(FileExistsError):
        local.fs.open(local.path("x"), "xb")
    assert local.names() == ["new", "x"]


def test_a_link_stays_one_and_a_pipe_is_written_to(local: Far) -> None:
    local.fs.pipe_file(local.path("real"), b"x")
    os.symlink("real", local.path("link"))
    local.fs.pipe_file(local.path("link"), b"y")
    assert os.readlink(local.path("link")) == "real"
    assert local.read("real") == b"y"
    os.mkfifo(local.path("pipe"))
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(Path(local.path("pipe")).read_bytes()))
    reader.start()
    with local.fs.open(local.path("pipe"), "wb") as file:
        file.write(b"through it")
    reader.join(timeout=10)
    assert got == [b"through it"]


def test_a_folder_that_is_missing_is_said_or_made(local: Far) -> None:
    with pytest.raises(FileNotFoundError):
        local.fs.open(local.path("no/such/a"), "wb")
    with pytest.raises(IsADirectoryError):
        local.fs.open(local.folder, "wb")
    making = CheckpointFileSystem(target_protocol="file", target_options={"auto_mkdir": True}, skip_instance_cache=True)
    making.pipe_file(local.path("made/for/a"), b"x")
    assert local.read("made/for/a") == b"x"


# -- processes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_process_writes_with_what_its_parent_has_used(s3: Far, method: str) -> None:
    s3.fs.pipe_file(s3.path("parent"), CONTENT)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    children = [
        context.Process(target=writes_right, args=(s3.fs, s3.path(f"child{n}"), CONTENT, queue)) for n in range(2)
    ]
    for child in children:
        child.start()
    assert [queue.get(timeout=60) for _ in children] == [True, True]
    for child in children:
        child.join(timeout=30)
        assert child.exitcode == 0
    assert s3.unfinished() == []


@pytest.mark.parametrize("kind", ["s3", "local"])
def test_a_forked_child_leaves_alone_what_its_parent_writes(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    _keep_hidden(monkeypatch)
    far = request.getfixturevalue("s3") if kind == "s3" else Far("local", "file", {}, str(tmp_path))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with far.fs.open(far.path("a"), "wb") as file:
        file.write(CONTENT[: 6 * MIB])
        if kind == "s3":
            eventually(lambda: far.unfinished() != [], timeout=10, what="the upload has begun")
        child = context.Process(target=leaves_what_is_not_its_own, args=(file, queue))
        child.start()
        assert "a forked child has to open its own" in queue.get(timeout=30)
        child.join(timeout=30)
        file.write(CONTENT[6 * MIB :])
    assert far.read("a") == CONTENT


# -- a store on its worst days ---------------------------------------------------------------------------


@pytest.fixture
def store() -> Iterator[FaultyS3]:
    with FaultyS3(b"").serving() as serving:
        yield serving


@pytest.fixture
def fs(store: FaultyS3) -> CheckpointFileSystem:
    return CheckpointFileSystem(target_protocol="s3", target_options=store.options, part_bytes=PART)


def _write(fs: CheckpointFileSystem, path: str, content: bytes, mode: str = "wb") -> None:
    with fs.open(path, mode) as file:
        for start in range(0, len(content), MIB):
            file.write(content[start : start + MIB])


PASSING = {
    "PUT": ["503", "500", "429", "reset", "reset in mid-body", "flipped", "lost"],
    "create": ["503", "reset"],
    "complete": ["503", "reset", "lost", "cut", "error in 200"],
}


@pytest.mark.parametrize(("act", "fault"), [(act, fault) for act, faults in PASSING.items() for fault in faults])
def test_passing_faults_cost_another_try_and_no_byte(
    store: FaultyS3, fs: CheckpointFileSystem, act: str, fault: str
) -> None:
    for name, content in (("large", CONTENT), ("small", CONTENT[:1000])):
        for mode in ("wb", "xb"):
            if content is CONTENT or act == "PUT":
                store.faults_of[act].append(fault)
            _write(fs, f"bkt/{name}.{mode}", content, mode)
            assert store.objects[f"/bkt/{name}.{mode}"][0] == content
    assert store.uploads == {}
    assert not store.faults_of[act]


def test_a_store_that_stays_away_is_said_with_what_it_answered_and_no_secret(
    store: FaultyS3, fs: CheckpointFileSystem, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="holdshort")
    store.faults_of["PUT"].extend(["503"] * 6)
    with pytest.raises(
        StoreUnavailable, match=r"s3://bkt/a can't be written, after 6 tries: status 503 \(Said\)"
    ) as caught:
        fs.pipe_file("bkt/a", b"x")
    assert "Signature" not in str(caught.value) + caplog.text
    store.faults_of["PUT"].extend(["403"] * 40)
    with pytest.raises(PermissionError, match=r"s3://bkt/a may not be written: .*Check the credentials"):
        _write(fs, "bkt/a", CONTENT)
    store.faults_of["PUT"].clear()
    store.faults_of["complete"].extend(["error in 200"] * 6)
    with pytest.raises(StoreUnavailable, match=r"s3://bkt/a can't be written, .*InternalError"):
        _write(fs, "bkt/a", CONTENT)
    assert (store.objects, store.uploads) == ({}, {})


def test_what_was_lost_and_is_another_object_now_is_said(store: FaultyS3, fs: CheckpointFileSystem) -> None:
    file = fs.open("bkt/a", "wb")
    file.write(CONTENT)
    store.faults_of["complete"].append("lost")
    store.on_lost = lambda: store.objects.update({"/bkt/a": (b"of another", '"another"', "")})
    with pytest.raises(StoreUnavailable, match="what is there now is something else"):
        file.close()


def test_parts_that_can_not_be_removed_now_are_told_of(
    store: FaultyS3, fs: CheckpointFileSystem, caplog: pytest.LogCaptureFixture
) -> None:
    store.faults_of["abort"].append("403")
    file = fs.open("bkt/a", "wb")
    file.write(CONTENT)
    eventually(lambda: bool(store.uploads), timeout=10, what="the upload has begun")
    file.discard()
    assert "a lifecycle rule AbortIncompleteMultipartUpload" in caplog.text
    assert len(store.uploads) == 1


def test_a_store_without_crc32c_gets_md5(store: FaultyS3, fs: CheckpointFileSystem) -> None:
    store.sums = "md5"
    store.faults_of["PUT"].extend(["flipped", "", "flipped", "flipped"])
    _write(fs, "bkt/a", CONTENT)
    _write(fs, "bkt/b", CONTENT[:1000])
    assert (store.objects["/bkt/a"][0], store.objects["/bkt/b"][0]) == (CONTENT, CONTENT[:1000])


# -- memory ----------------------------------------------------------------------------------------------


def _writer(store: FaultyS3, buffers: Buffers, connections: int = 4) -> Writer:
    behind = fsspec.filesystem("s3", **store.options)
    return Writer(behind, Reader(behind, buffers, connections=connections).fetcher)


def test_all_that_is_written_stays_within_the_memory_budget(store: FaultyS3) -> None:
    buffers = Buffers(20 * MIB)
    writer = _writer(store, buffers)
    files = [writer.open(f"bkt/{n}", Access(part_bytes=PART)) for n in range(3)]
    most = 0

    def write(file: Any) -> None:
        nonlocal most
        for start in range(0, len(CONTENT), 300_000):
            file.write(CONTENT[start : start + 300_000])
            most = max(most, buffers.taken_bytes)
        file.close()

    threads = [threading.Thread(target=write, args=(file,)) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert PART <= most <= 20 * MIB
    assert buffers.taken_bytes == 0
    assert {found[0] for found in store.objects.values()} == {CONTENT}


def test_bytes_that_nobody_can_change_are_sent_from_where_they_lie(
    store: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffers = Buffers(256 * MIB)
    writer = _writer(store, buffers)
    monkeypatch.setattr(buffers, "take_to_write", None)  # whoever took one would fail
    store.faults_of["PUT"].extend(["", "503", "reset in mid-body"])
    with writer.open("bkt/a", Access(part_bytes=PART)) as file:
        for start in range(0, len(CONTENT), 700_000):
            file.write(CONTENT[start : start + 700_000])
    assert store.objects["/bkt/a"][0] == CONTENT
    assert buffers.taken_bytes == 0


def test_bytes_that_are_kept_for_a_view_of_them_count_as_a_whole_and_once(store: FaultyS3) -> None:
    buffers = Buffers(64 * MIB)
    writer = _writer(store, buffers)
    owner = CONTENT[: 3 * MIB]
    file = writer.open("bkt/a", Access(part_bytes=PART))
    for start in (0, MIB):
        file.write(memoryview(owner)[start : start + MIB])
        assert buffers.taken_bytes == len(owner)
    file.discard()
    assert buffers.taken_bytes == 0


def test_a_view_of_much_more_than_it_is_copied_from(store: FaultyS3) -> None:
    buffers = Buffers(len(CONTENT) * 3)
    writer = _writer(store, buffers)
    with writer.open("bkt/a", Access(part_bytes=PART)) as file:
        file.write(memoryview(CONTENT)[:MIB])
        assert 0 < buffers.taken_bytes <= PART
        file.write(memoryview(CONTENT)[MIB:])
    assert store.objects["/bkt/a"][0] == CONTENT


def test_reads_leave_memory_for_what_is_written(store: FaultyS3) -> None:
    buffers = Buffers(32 * MIB)
    while buffers.take(MIB) is not None:
        pass
    writer = _writer(store, buffers)
    with writer.open("bkt/a", Access(part_bytes=PART)) as file:
        for start in range(0, len(CONTENT), MIB):
            file.write(CONTENT[start : start + MIB])
    assert store.objects["/bkt/a"][0] == CONTENT


def test_small_files_that_are_open_together_take_little_memory(store: FaultyS3) -> None:
    buffers = Buffers(16 * MIB)
    writer = _writer(store, buffers)
    files = [writer.open(f"bkt/{n}", Access()) for n in range(40)]
    for file in files:
        file.write(b"x" * 1000)
    assert buffers.taken_bytes <= 16 * MIB
    for file in files:
        file.close()
    assert len(store.objects) == 40


def test_files_that_hold_all_memory_between_them_are_told_so_and_not_waited_for(
    store: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdshort.storage.writing.signed_s3._PATIENCE_S", 0.2)
    buffers = Buffers(16 * MIB)
    writer = _writer(store, buffers)
    files = [writer.open(f"bkt/{n}", Access(part_bytes=PART)) for n in range(4)]
    for file in files[:3]:
        file.write(CONTENT[: 4 * MIB])
    with pytest.raises(StoreError, match=r"open files of this process hold all of the 16 MiB .*memory_bytes"):
        files[3].write(CONTENT[: 5 * MIB - 1])
    for file in files:
        file.discard()
    assert buffers.taken_bytes == 0
    assert (store.objects, store.uploads) == ({}, {})


# -- how large parts are ---------------------------------------------------------------------------------


@given(st.integers(1, MOST_BYTES), st.integers(65536, 2**30))
def test_even_parts_of_any_object_are_within_the_bounds_of_s3(size: int, part_bytes: int) -> None:
    part = even_part(size, part_bytes)
    assert LEAST_PART <= part <= MOST_PART
    assert -(-size // part) <= MOST_PARTS
    assert part == max(part_bytes, LEAST_PART) or part_bytes * MOST_PARTS < size


@given(st.integers(65536, 2**30))
def test_growing_parts_suffice_for_the_largest_object(part_bytes: int) -> None:
    parts = [growing_part(number, part_bytes) for number in range(1, MOST_PARTS + 1)]
    assert parts[0] == max(part_bytes, LEAST_PART)
    assert max(parts) <= MOST_PART
    assert parts == sorted(parts)
    assert sum(parts) >= MOST_BYTES
