"""What every store promises, on every kind of store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import orjson
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry as file_systems
from hypothesis import given
from hypothesis import strategies as st

from holdshort.storage.errors import ObjectNotFound, StoreRefused, StoreUnavailable
from holdshort.storage.opening import open_store
from holdshort.storage.store import Store, check_path
from support.places import Place
from support.servers import SeaweedServer

BIG = 2**20


# -- exclusive create ------------------------------------------------------------------------------------


def test_of_sixteen_racing_threads_one_creates_an_object_and_readers_see_it_whole(store: Store) -> None:
    size = BIG // 16
    start = threading.Barrier(16 + 2)
    created = threading.Event()

    def write(number: int) -> bool:
        start.wait()
        return store.create("race/object", bytes([number]) * size)

    def read() -> set[bytes]:
        start.wait()
        seen: set[bytes] = set()
        while not created.is_set():
            try:
                seen.add(store.read("race/object"))
            except ObjectNotFound:
                continue
        return seen

    with ThreadPoolExecutor(18) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        writers = [pool.submit(write, number) for number in range(16)]
        won = [number for number, writer in enumerate(writers) if writer.result()]
        created.set()
        seen = set().union(*(reader.result() for reader in readers))
    assert len(won) == 1
    assert store.read("race/object") == bytes(won) * size
    assert seen <= {bytes(won) * size}
    assert store.list("race") == ["object"]


_RACER = """
import json, sys
from holdshort.storage.opening import open_store

number, url, options, rounds = json.loads(sys.argv[1])
store = open_store(url, storage_options=options)
print("ready", flush=True)
sys.stdin.readline()
print(json.dumps([n for n in range(rounds) if store.create(f"race/{n}", bytes([number]) * 5000)]))
"""


def test_of_racing_processes_one_creates_each_object(place: Place, store: Store) -> None:
    if place.kind == "memory":
        pytest.skip("a store in memory belongs to one process")
    processes, rounds = 4, 40
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", _RACER, json.dumps([number, place.url, place.options, rounds])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = [json.loads(racer.communicate(timeout=60)[0]) for racer in racers]
    assert sorted(n for wins in won for n in wins) == list(range(rounds))
    for number, wins in enumerate(won):
        for n in wins:
            assert store.read(f"race/{n}") == bytes([number]) * 5000


def test_create_leaves_an_existing_object_untouched(store: Store) -> None:
    assert store.create("a/b", b"first")
    assert not store.create("a/b", b"second")
    assert not store.create("a/b", b"first")
    assert store.read("a/b") == b"first"


def test_an_object_can_be_created_again_after_it_was_deleted(store: Store) -> None:
    store.create("a/b", b"first")
    store.delete("a/b")
    assert store.create("a/b", b"second")
    assert store.read("a/b") == b"second"


# -- the other primitives --------------------------------------------------------------------------------


def test_replace_writes_whether_the_object_exists_or_not(store: Store) -> None:
    store.replace("holds/pool", b"one, and longer")
    store.replace("holds/pool", b"two")
    assert store.read("holds/pool") == b"two"
    assert store.list("holds") == ["pool"]


def test_a_reader_may_ask_for_the_first_bytes_only(store: Store) -> None:
    store.create("a", b"0123456789")
    store.create("empty", b"")
    assert store.read("a", first=4) == b"0123"
    assert store.read("a", first=100) == b"0123456789"
    assert store.read("empty") == b""
    assert store.read("empty", first=4) == b""


def test_a_missing_object_is_not_found(store: Store) -> None:
    store.create("folder/object", b"x")
    for path in ("nothing", "folder/nothing", "no/such/folder", "folder"):
        with pytest.raises(ObjectNotFound, match=path):
            store.read(path)
        with pytest.raises(ObjectNotFound, match=path):
            store.read(path, first=10)
        with pytest.raises(ObjectNotFound, match=path):
            list(store.read_parts(path))


def test_a_listing_is_sorted_and_marks_folders(store: Store) -> None:
    for path in ("top/b", "top/a-2", "top/a/inner/deep", "top/a.x", "top/c/d"):
        store.create(path, b"")
    assert store.list("top") == sorted(["a-2", "a.x", "a/", "b", "c/"])
    assert store.list("top/a") == ["inner/"]
    assert store.list("top/a/inner") == ["deep"]


def test_a_missing_folder_is_empty(store: Store) -> None:
    store.create("top/object", b"x")
    assert store.list("nothing") == []
    assert store.list("top/nothing") == []
    assert store.list("top/object") == []


def test_deleting_twice_is_no_error(store: Store) -> None:
    store.create("a/b", b"x")
    store.create("a/c", b"y")
    store.delete("a/b")
    store.delete("a/b")
    store.delete("never/was")
    assert store.list("a") == ["c"]


def test_a_folder_is_deleted_with_all_below_it_and_nothing_beside_it(store: Store) -> None:
    for path in ("jobs/1/a", "jobs/1/x/y/z", "jobs/10/a", "jobs/2"):
        store.create(path, b"x")
    store.delete_folder("jobs/1")
    store.delete_folder("jobs/1")
    store.delete_folder("never")
    assert _objects(store, "jobs") == ["jobs/10/a", "jobs/2"]


def test_a_folder_may_be_deleted_by_several_at_once(store: Store) -> None:
    for number in range(60):
        store.create(f"many/{number % 5}/{number}", b"x")
    with ThreadPoolExecutor(4) as pool:
        for removal in [pool.submit(store.delete_folder, "many") for _ in range(4)]:
            removal.result()
    assert _objects(store, "many") == []


def _objects(store: Store, folder: str) -> list[str]:
    """All objects in a folder and below. (Some stores keep a folder when it is empty, others don't.)"""
    found: list[str] = []
    for name in store.list(folder):
        path = f"{folder}/{name}"
        found += _objects(store, path[:-1]) if name.endswith("/") else [path]
    return found


# -- large objects ---------------------------------------------------------------------------------------


def test_what_was_uploaded_in_parts_is_read_back(store: Store) -> None:
    for number, sizes in enumerate([[], [0], [5], [BIG, 0, BIG + 1, 17]]):
        parts = [os.urandom(size) for size in sizes]
        store.upload(f"big/{number}", iter(parts))
        assert b"".join(store.read_parts(f"big/{number}", 700_001)) == b"".join(parts)
        assert store.read(f"big/{number}") == b"".join(parts)


def test_the_last_upload_wins(store: Store) -> None:
    store.upload("object", [b"first, ", b"longer"])
    store.upload("object", [b"second"])
    assert store.read("object") == b"second"


class _Broken(Exception):
    pass


@pytest.mark.parametrize("error", [_Broken(), FileNotFoundError("the source is gone"), KeyboardInterrupt()])
def test_an_upload_that_breaks_leaves_nothing_and_tells_the_cause(store: Store, error: BaseException) -> None:
    def parts() -> Iterator[bytes]:
        yield b"x" * BIG
        raise error

    with pytest.raises(type(error)):
        store.upload("big/object", parts())
    assert store.list("big") == []
    store.upload("big/object", [b"whole"])
    with pytest.raises(type(error)):
        store.upload("big/object", parts())
    assert store.read("big/object") == b"whole"


def test_an_upload_of_several_s3_parts_that_breaks_leaves_nothing(s3_server: SeaweedServer, s3_url: str) -> None:
    store = open_store(s3_url, storage_options={**s3_server.options, "default_block_size": 5 * 2**20})

    def parts(count: int) -> Iterator[bytes]:
        for number in range(count):
            yield bytes([number]) * (6 * 2**20)
        if count == 2:
            raise _Broken

    with pytest.raises(_Broken):
        store.upload("object", parts(2))
    with pytest.raises(ObjectNotFound):
        store.read("object")
    store.upload("object", parts(3))
    assert b"".join(store.read_parts("object")) == b"".join(parts(3))


# -- names -----------------------------------------------------------------------------------------------

HOSTILE = [
    "../x",
    "a/../../x",
    "",
    "a//b",
    ".hidden",
    "a/.hidden",
    "/abs",
    "a/",
    "a\\b",
    "a\0b",
    "a\n",
    "ü",
    "x" * 251,
]


def test_a_hostile_path_is_refused_by_every_method(store: Store) -> None:
    calls: list[Callable[[str], object]] = [
        lambda path: store.create(path, b"x"),
        lambda path: store.replace(path, b"x"),
        lambda path: store.read(path),
        lambda path: store.read(path, first=1),
        lambda path: store.upload(path, [b"x"]),
        lambda path: list(store.read_parts(path)),
        store.list,
        store.delete,
        store.delete_folder,
    ]
    for path in HOSTILE:
        for call in calls:
            if path == "" and call == store.list:
                continue  # the root may be listed
            with pytest.raises(ValueError, match="is no path in a store"):
                call(path)


@given(st.text(st.sampled_from("ab./\\ ~%-_\n\0é"), max_size=20))
def test_a_path_that_is_accepted_stays_inside(path: str) -> None:
    try:
        accepted = check_path(path)
    except ValueError:
        return
    assert accepted == path
    assert os.path.normpath(f"/root/{path}") == f"/root/{path}"
    assert not any(part.startswith(".") for part in path.split("/"))


def test_an_unusual_but_plain_name_is_kept_as_it_is(store: Store) -> None:
    names = ["a b", "x=1,y:2", "100%", "~user", "tag@home", "-dash", "a+b", "a%2Fb", "x" * 250]
    for name in names:
        assert store.create(f"names/{name}", name.encode())
    assert store.list("names") == sorted(names)
    for name in names:
        assert store.read(f"names/{name}") == name.encode()
        store.delete(f"names/{name}")
    assert store.list("names") == []


# -- opening ---------------------------------------------------------------------------------------------


def test_opening_leaves_a_marker_and_nothing_else(place: Place, store: Store) -> None:
    assert orjson.loads(store.read("holdshort.json"))["layout"] == 1
    assert store.list("probe") == []
    store.create("kept", b"x")
    assert place.open().read("kept") == b"x"


def test_a_store_of_a_newer_layout_is_refused(place: Place, store: Store) -> None:
    store.replace("holdshort.json", b'{"layout": 99}')
    with pytest.raises(StoreRefused, match=r"layout 99.*[Uu]pgrade"):
        place.open()


@pytest.mark.parametrize("marker", [b"", b"null", b"[]", b'{"layout": null}', b"\xff"])
def test_a_marker_that_is_none_of_ours_is_refused(tmp_path: Path, marker: bytes) -> None:
    open_store(str(tmp_path)).replace("holdshort.json", marker)
    with pytest.raises(StoreRefused, match=r"holdshort\.json"):
        open_store(str(tmp_path))


@pytest.mark.parametrize("url", ["http://host/x", "ftp://host/x", "github://org:repo@/x", "sftp://h/x", "nonsense://x"])
def test_a_protocol_without_exclusive_create_is_refused(url: str) -> None:
    with pytest.raises(StoreRefused, match="created only once"):
        open_store(url)


class _Careless(MemoryFileSystem):
    """A file system whose exclusive create is none."""

    protocol = ("gs", "gcs")
    store: dict[str, object] = {}  # noqa: RUF012 - shared like that of its base
    pseudo_dirs = [""]  # noqa: RUF012

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: object) -> None:
        super().pipe_file(path, value, mode="overwrite")


@pytest.fixture
def careless_gs() -> Iterator[None]:
    before = file_systems.get("gs")
    fsspec.register_implementation("gs", _Careless, clobber=True)
    yield
    del file_systems["gs"]
    if before is not None:
        file_systems["gs"] = before
    _Careless.store.clear()


@pytest.mark.usefixtures("careless_gs")
def test_a_store_that_lets_an_object_be_created_twice_is_refused_every_time() -> None:
    for _ in range(2):
        with pytest.raises(StoreRefused, match="created twice"):
            open_store("gs://bucket/prefix")
    assert not [path for path in _Careless.store if path.startswith("/bucket")]


def test_a_store_never_shows_its_credentials(s3_server: SeaweedServer, s3_url: str) -> None:
    with pytest.raises(StoreUnavailable) as refused:
        open_store(s3_url, storage_options={**s3_server.options, "secret": "wrong-secret"})
    assert "wrong-secret" not in str(refused.value)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreRefused, match="HOLDSHORT_STORE"):
        open_store(str(tmp_path / "file" / "store"))
