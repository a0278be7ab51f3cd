"""Weights from a store: right or refused, shared by the processes of a machine, each byte fetched once."""

from __future__ import annotations

import gc
import json
import logging
import multiprocessing
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdshort.storage import load_safetensors, open_safetensors
from holdshort.storage.caching.folder import CacheFolder
from holdshort.storage.caching.layout import BLOCK_BYTES
from holdshort.storage.caching.tending import prune
from holdshort.storage.errors import Corrupt, MissingExtra, ObjectChanged, SettingsError
from holdshort.storage.loading.header import length_of, parsed
from support.faulty_s3 import FaultyS3
from support.waiting import eventually
from support.weights import Tensor, digest_of, framed, replica, written

MIB = 2**20
URL = "s3://bkt/m/model.safetensors"


def _tensors(seed: int = 1, count: int = 40) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {f"l{n}.w": rng.standard_normal((64, 800 + n)).astype(np.float32) for n in range(count)}
    return found | {"odd": np.arange(3, dtype=np.int8), "scalar": np.array(3.5), "empty": np.zeros((0, 4), np.float16)}


def _bytes(arrays: dict[str, np.ndarray[Any, Any]]) -> bytes:
    names = {"float32": "F32", "int8": "I8", "float64": "F64", "float16": "F16"}
    return written(
        {name: (names[each.dtype.name], each.shape, each.tobytes()) for name, each in arrays.items()}, {"made": "here"}
    )


ARRAYS = _tensors()
FILE = _bytes(ARRAYS)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test's own."""
    monkeypatch.setenv("HOLDSHORT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "v1"


@pytest.fixture
def store(cache: Path) -> Iterator[FaultyS3]:
    with FaultyS3(FILE).serving() as store:
        yield store


def _assert_same(found: dict[str, Any], expected: dict[str, np.ndarray[Any, Any]] = ARRAYS) -> None:
    assert list(found) == list(expected)
    for name, each in expected.items():
        assert (found[name].dtype, found[name].shape) == (each.dtype, each.shape), name
        assert np.array_equal(found[name], each), name


# -- what is handed out ----------------------------------------------------------------------------------


def test_all_tensors_come_as_they_were_written_and_the_second_time_from_the_cache(store: FaultyS3) -> None:
    told: list[tuple[int, int]] = []
    small = {"part_bytes": MIB}
    _assert_same(load_safetensors(URL, s3=store.options, serving=small, progress=lambda *now: told.append(now)))
    assert told == sorted(told)
    assert len(told) > 5
    assert told[-1][0] == told[-1][1]
    assert store.served_bytes <= len(FILE) * 1.05
    asked = store.gets
    _assert_same(load_safetensors(URL, s3=store.options, serving=small))
    assert store.gets == asked


def test_only_what_is_wanted_is_fetched(store: FaultyS3) -> None:
    exact = {"gap_bytes": 0, "part_bytes": MIB}
    found = load_safetensors(URL, s3=store.options, serving=exact, names=["l30.w", "odd"])
    _assert_same(found, {name: ARRAYS[name] for name in ("l30.w", "odd")})
    assert store.served_bytes <= 256 * 1024 + ARRAYS["l30.w"].nbytes + 4 * BLOCK_BYTES
    with open_safetensors(URL, s3=store.options, serving=exact) as weights:
        assert weights.metadata == {"made": "here"}
        assert weights.keys() == list(ARRAYS)
        before = store.served_bytes
        kept = weights.get("l20.w")
        assert store.served_bytes - before <= kept.nbytes + 2 * BLOCK_BYTES
        with pytest.raises(KeyError, match=r"model\.safetensors has no tensor 'l99'"):
            weights.get("l99")
    assert np.array_equal(kept, ARRAYS["l20.w"]), "it outlives the file"


def test_writing_to_an_array_is_nobody_elses_matter(store: FaultyS3) -> None:
    first, second = (load_safetensors(URL, s3=store.options) for _ in range(2))
    first["l3.w"][:] = 7
    assert np.array_equal(second["l3.w"], ARRAYS["l3.w"])
    _assert_same(load_safetensors(URL, s3=store.options))


@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_replicas_on_a_host_fetch_each_byte_once(store: FaultyS3, way: str) -> None:
    ways = multiprocessing.get_context(way)
    count = 6 if way == "fork" else 2
    queue, begin = ways.Queue(), ways.Barrier(count)
    children = [ways.Process(target=replica, args=(store.options, URL, queue, begin)) for _ in range(count)]
    for child in children:
        child.start()
    found = [queue.get(timeout=60) for _ in children]
    for child in children:
        child.join()
    assert found == [digest_of(ARRAYS)] * count
    heads = count * 256 * 1024  # each has asked what it is
    assert store.served_bytes - heads <= len(FILE) * 1.05


def _flip_a_bit(cache: Path) -> None:
    (path,) = (cache / "objects").glob("*/*.object")
    with path.open("r+b") as file:
        file.seek(-100_000, 2)
        (byte,) = file.read(1)
        file.seek(-100_000, 2)
        file.write(bytes([byte ^ 1]))


def test_a_bit_that_flips_on_the_disk_is_noticed_before_anything_is_handed_out(store: FaultyS3, cache: Path) -> None:
    load_safetensors(URL, s3=store.options)
    _flip_a_bit(cache)
    before = store.served_bytes
    _assert_same(load_safetensors(URL, s3=store.options))
    assert 0 < store.served_bytes - before <= 2 * BLOCK_BYTES
    before = store.served_bytes
    _assert_same(load_safetensors(URL, s3=store.options))
    assert store.served_bytes == before, "it has healed"


# -- what is here, while the store is asked whether it still is that --------------------------------------

ASKS = {"freshness_s": 0}


def test_what_is_here_is_looked_at_before_the_store_has_answered(
    store: FaultyS3, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_safetensors(URL, s3=store.options)
    _flip_a_bit(cache)
    before: list[str] = []

    def asked(_: str) -> None:
        if not before:  # the first answer comes once what is wrong was found
            eventually(lambda: "not what had been written" in caplog.text)
            before.append(caplog.text)

    store.on_get = asked
    _assert_same(load_safetensors(URL, s3=store.options, serving=ASKS))
    assert before


def test_what_was_looked_at_counts_for_nothing_once_it_was_replaced(store: FaultyS3, cache: Path) -> None:
    load_safetensors(URL, s3=store.options)
    other = _tensors(seed=2)
    store.content, store.tag = _bytes(other), '"second"'
    _assert_same(load_safetensors(URL, s3=store.options, serving=ASKS), other)
    (left,) = CacheFolder(cache, 100 * MIB).entries()
    assert "second" in left.subject.tag, "the old content has left the cache at once"


def test_what_leaves_the_cache_while_it_is_looked_at_is_fetched_again(store: FaultyS3, cache: Path) -> None:
    load_safetensors(URL, s3=store.options)
    before, folder = store.served_bytes, CacheFolder(cache, 100 * MIB)
    left: list[object] = []

    def asked(_: str) -> None:
        if not left:
            left.extend(prune(folder, unused_s=0.0))

    store.on_get = asked
    found = load_safetensors(URL, s3=store.options, serving=ASKS)
    _assert_same(found)
    assert len(left) == 1
    assert len(FILE) <= store.served_bytes - before <= len(FILE) * 1.05
    assert prune(folder, unused_s=0.0) == [], "what was fetched is held as long as any array lives"


def test_what_is_here_is_not_handed_out_when_the_store_has_it_no_more(store: FaultyS3) -> None:
    load_safetensors(URL, s3=store.options)
    store.faults.append("404")
    with pytest.raises(FileNotFoundError):
        load_safetensors(URL, s3=store.options, serving=ASKS)


def test_who_wants_some_tensors_reads_no_others(store: FaultyS3, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_safetensors(URL, s3=store.options)
    _flip_a_bit(cache)
    with open_safetensors(URL, s3=store.options, serving=ASKS) as weights:
        assert weights.keys() == list(ARRAYS)
    load_safetensors(URL, s3=store.options, serving=ASKS, names=["l0.w"])
    assert "not what had been written" not in caplog.text


def test_what_is_loaded_stays_in_the_cache_as_long_as_any_array_lives(store: FaultyS3, cache: Path) -> None:
    found = load_safetensors(URL, s3=store.options)
    folder = CacheFolder(cache, 100 * MIB)
    last = found["l5.w"][3:4]
    del found
    gc.collect()
    assert prune(folder, unused_s=0.0) == []
    del last
    gc.collect()
    assert len(prune(folder, unused_s=0.0)) == 1


def test_a_forked_child_that_drops_its_arrays_closes_nothing_else(store: FaultyS3, cache: Path) -> None:
    found: dict[str, Any] = load_safetensors(URL, s3=store.options)
    child = os.fork()
    if child == 0:
        read, write = os.pipe()  # has the number that the pin had
        found.clear()
        gc.collect()
        try:
            os.write(write, b"x")
            os._exit(0 if os.read(read, 1) == b"x" else 1)
        except OSError:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert prune(CacheFolder(cache, 100 * MIB), unused_s=0.0) == [], "the parent's arrays still hold it"
    _assert_same(found)


def test_without_room_in_the_cache_arrays_lie_in_memory_of_ones_own(
    store: FaultyS3, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        _assert_same(load_safetensors(URL, s3=store.options, serving={"cache_bytes": 2 * MIB, "part_bytes": MIB}))
    assert "are in this process's own memory" in caplog.text
    assert store.served_bytes <= len(FILE) * 1.05
    assert sum(entry.held_bytes for entry in CacheFolder(cache, 2 * MIB).entries()) <= 2 * MIB


@pytest.mark.parametrize("values", [{"cache": "none"}, {"cache": "none", "memory_bytes": 16 * MIB}])
def test_without_a_cache_nothing_is_written_and_all_is_right(
    store: FaultyS3, cache: Path, values: dict[str, Any]
) -> None:
    _assert_same(load_safetensors(URL, s3=store.options, serving=values))
    assert store.served_bytes <= len(FILE) * 1.05
    assert not list((cache / "objects").glob("*/*"))


def test_a_file_of_this_machine_is_mapped_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(FILE)
    found = load_safetensors(str(tmp_path / "model.safetensors"))
    _assert_same(found)
    found["l0.w"][:] = 0
    assert (tmp_path / "model.safetensors").read_bytes() == FILE


def test_weights_that_are_replaced_are_read_anew_and_never_mixed(store: FaultyS3) -> None:
    options, gap = store.options, {"gap_bytes": 0}
    load_safetensors(URL, s3=options, serving=gap, names=["l0.w"])
    other = _tensors(seed=2)
    store.content, store.tag = _bytes(other), '"second"'
    _assert_same(load_safetensors(URL, s3=options, serving=gap), other)
    with open_safetensors(URL, s3=options, serving=gap | {"cache": "none"}) as weights:
        store.content, store.tag = FILE, '"third"'
        with pytest.raises(ObjectChanged):
            weights.get("l30.w")


def test_what_a_progress_raises_ends_the_loading(store: FaultyS3) -> None:
    class Enough(Exception):
        pass

    def progress(at_hand: int, wanted: int) -> None:
        if at_hand > wanted / 2:
            raise Enough

    with pytest.raises(Enough):
        load_safetensors(URL, s3=store.options, serving={"part_bytes": MIB}, progress=progress)
    _assert_same(load_safetensors(URL, s3=store.options))


# -- several files ---------------------------------------------------------------------------------------


def _serve_shards(store: FaultyS3) -> None:
    halves = [{n: ARRAYS[n] for n in list(ARRAYS)[:20]}, {n: ARRAYS[n] for n in list(ARRAYS)[20:]}]
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    weight_map = {name: file for file, half in zip(names, halves, strict=True) for name in half}
    for file, half in zip(names, halves, strict=True):
        store.contents[f"bkt/m/{file}"] = _bytes(half)
    store.contents["bkt/m/model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()


def test_an_index_loads_all_files_that_it_names(store: FaultyS3) -> None:
    _serve_shards(store)
    told: list[tuple[int, int]] = []
    url = f"{URL}.index.json"
    _assert_same(load_safetensors(url, s3=store.options, progress=lambda *now: told.append(now)))
    assert told == sorted(told)
    assert len({all_bytes for _, all_bytes in told}) == 1
    some = load_safetensors(url, s3=store.options, names=["l39.w", "l0.w"])
    _assert_same(some, {name: ARRAYS[name] for name in ("l39.w", "l0.w")})
    with pytest.raises(KeyError, match="no tensor 'x'"):
        load_safetensors(url, s3=store.options, names=["x"])


def test_the_files_of_an_index_are_opened_at_once(store: FaultyS3) -> None:
    _serve_shards(store)
    both = threading.Barrier(2, timeout=5)
    seen: set[str] = set()

    def asked(path: str) -> None:
        if path.endswith("of-00002.safetensors") and path not in seen:
            seen.add(path)
            both.wait()  # until the other one was asked for, too

    store.on_get = asked
    _assert_same(load_safetensors(f"{URL}.index.json", s3=store.options))
    assert len(seen) == 2
    assert not both.broken


@pytest.mark.parametrize(
    ("index", "told"),
    [
        ({"weight_map": {"a": "../../etc/passwd"}}, r"says that 'a' is in '\.\./\.\./etc/passwd', which is no file"),
        ({"weight_map": {"a": ".."}}, "which is no file beside it"),
        ({"weight_map": {"a": 3}}, "which is no file beside it"),
        ({"weight_map": []}, "is no index of weights"),
        ([], "is no index of weights"),
        ({"weight_map": {"x": "model-00001-of-00002.safetensors"}}, "which has no such tensor"),
    ],
)
def test_an_index_that_makes_no_sense_is_refused(store: FaultyS3, index: Any, told: str) -> None:
    _serve_shards(store)
    store.contents["bkt/m/model.safetensors.index.json"] = json.dumps(index).encode()
    with pytest.raises(Corrupt, match=told):
        load_safetensors(f"{URL}.index.json", s3=store.options)


# -- headers ---------------------------------------------------------------------------------------------


def _one(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | changes}


BAD: list[tuple[str, Callable[[], bytes], str]] = [
    ("empty", lambda: b"", "it has 0 bytes, too few"),
    ("short", lambda: b"\0" * 9, "it has 9 bytes, too few"),
    ("huge", lambda: (10**12).to_bytes(8, "little") + b"{}", "the header would be 1000000000000 bytes long, and"),
    ("longer than the file", lambda: (50).to_bytes(8, "little") + b"{}", "would be 50 bytes long, in a file of 10"),
    ("zeros", lambda: bytes(100), "byte 0: the header would be 0 bytes long"),
    ("html", lambda: framed(b"<html></html>"), "byte 8: the header does not begin with '{'"),
    ("json", lambda: framed(b'{"a": ]'), "byte 14: the header is not JSON"),
    ("utf-8", lambda: framed(b'{"\xff": 1}'), "byte 10: the header is not UTF-8"),
    ("deep", lambda: framed(b'{"a": ' + b"[" * 100_000), "is not JSON of the expected kind"),
    ("twice", lambda: framed(b'{"a": 1, "a": 1}'), "'a' is there twice"),
    ("metadata", lambda: framed(b'{"__metadata__": {"a": 1}}'), "has to hold texts by name"),
    ("no tensor", lambda: framed(b'{"a": 1}'), "'a' has to have a dtype, a shape and data_offsets"),
    ("more", lambda: _framed(_one(more=1), 16), "and nothing else"),
    ("type", lambda: _framed(_one(dtype="F128"), 16), "is of type 'F128', which is not known"),
    ("negative", lambda: _framed(_one(shape=[-2, -2]), 16), "has a shape that is not a list of sizes"),
    ("true", lambda: _framed(_one(shape=[True, 4]), 16), "has a shape that is not a list of sizes"),
    ("backwards", lambda: _framed(_one(data_offsets=[16, 0]), 16), "not a begin and an end"),
    ("three", lambda: _framed(_one(data_offsets=[0, 16, 16]), 16), "not a begin and an end"),
    ("shape", lambda: _framed(_one(shape=[3, 2]), 16), r"has 16 bytes \(from byte \d+\), and its .* make 24"),
    ("overflow", lambda: _framed(_one(shape=[2**62, 2**62]), 16), "has 16 bytes"),
    ("cut", lambda: _framed(_one(), 15), "was cut off, or is not whole yet"),
    ("behind", lambda: _framed(_one(), 17), "1 bytes behind the last tensor"),
    ("gap", lambda: _framed(_one(data_offsets=[4, 20]), 20), "4 bytes belong to no tensor"),
    ("overlap", lambda: _framed(_one() | {"b": {"dtype": "U8", "shape": [8], "data_offsets": [8, 16]}}, 16),
     "'b' lies over 'a'"),
    ("half a byte", lambda: _framed({"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 1]}}, 1), "make 1.5"),
]  # fmt: skip


def _framed(header: dict[str, Any], data_bytes: int) -> bytes:
    return framed(json.dumps(header).encode()) + bytes(data_bytes)


@pytest.mark.parametrize(("make", "told"), [pytest.param(m, t, id=name) for name, m, t in BAD])
def test_a_header_that_does_not_hold_together_is_refused_with_its_place(
    tmp_path: Path, make: Callable[[], bytes], told: str
) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(make())
    with pytest.raises(Corrupt, match=told) as raised:
        load_safetensors(str(path))
    assert str(path) in str(raised.value)


_NAMES = st.text(max_size=30).filter(lambda name: name != "__metadata__")
_TENSORS = st.tuples(st.sampled_from(["U8", "BF16", "F32", "F64"]), st.lists(st.integers(0, 5), max_size=3)).map(
    lambda t: (t[0], t[1], bytes(int(np.prod(t[1])) * {"U8": 1, "BF16": 2, "F32": 4, "F64": 8}[t[0]]))
)


@given(st.dictionaries(_NAMES, _TENSORS, max_size=6), st.integers(1, 64))
def test_what_was_written_is_found_where_it_was_written(tensors: dict[str, Tensor], align: int) -> None:
    file = written(tensors, align=align)
    length = length_of(file[:8], len(file), "x")
    header = parsed(file[8 : 8 + length], len(file), "x")
    assert [(e.name, e.dtype, list(e.shape), e.end - e.start) for e in header.tensors.values()] == [
        (name, dtype, list(shape), len(data)) for name, (dtype, shape, data) in tensors.items()
    ]
    assert sum(e.end - e.start for e in header.tensors.values()) == len(file) - 8 - length


@given(st.randoms(use_true_random=False))
def test_a_header_with_any_byte_changed_is_refused_or_still_holds_together(rng: random.Random) -> None:
    file = bytearray(written({"a": ("F32", [2, 3], bytes(24)), "b": ("U8", [5], bytes(5))}))
    for _ in range(rng.randrange(1, 4)):
        file[rng.randrange(len(file) - 29)] = rng.randrange(256)
    try:
        length = length_of(bytes(file[:8]), len(file), "x")
        header = parsed(bytes(file[8 : 8 + length]), len(file), "x")
    except Corrupt:
        return
    spans = sorted((e.start, e.end) for e in header.tensors.values())
    assert all(8 + length <= start <= end <= len(file) for start, end in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


# -- types and frameworks --------------------------------------------------------------------------------

HALF = written({"h": ("BF16", [2], np.array([1.5, -2.0], np.float32).view(np.uint16)[1::2].tobytes())})


def test_a_type_that_numpy_lacks_is_refused_and_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "h").write_bytes(HALF)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(SettingsError, match=r"tensor 'h' is of type BF16, which NumPy without .* framework=\"torch\""):
        load_safetensors(str(tmp_path / "h"))
    monkeypatch.undo()
    pytest.importorskip("ml_dtypes")
    assert load_safetensors(str(tmp_path / "h"))["h"].astype("float32").tolist() == [1.5, -2.0]


def test_a_framework_or_device_that_there_is_not_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match='has to be "numpy" or "torch"'):
        load_safetensors("s3://b/k", framework="jax")  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError, match='NumPy knows "cpu" only'):
        load_safetensors("s3://b/k", device="cuda:0")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match=r"holdshort\[torch\]"):
        load_safetensors("s3://b/k", framework="torch")


def test_tensors_that_do_not_lie_as_their_type_needs_are_right_all_the_same(tmp_path: Path) -> None:
    data = written({"a": ("U8", [1], b"\1"), "b": ("F64", [3], np.array([1.0, 2, 3]).tobytes())}, align=1)
    (tmp_path / "odd").write_bytes(data)
    found = load_safetensors(str(tmp_path / "odd"))["b"]
    assert found.tolist() == [1, 2, 3]
    assert found.flags.aligned
    assert found.flags.writeable


def test_torch_gets_the_same_and_may_write(store: FaultyS3, tmp_path: Path) -> None:
    torch: Any = pytest.importorskip("torch")
    found = load_safetensors(URL, s3=store.options, framework="torch")
    _assert_same({name: each.numpy() for name, each in found.items()})
    found["l0.w"].zero_()
    with open_safetensors(URL, s3=store.options, framework="torch") as weights:
        assert torch.equal(weights.get("l0.w"), torch.from_numpy(ARRAYS["l0.w"]))
    (tmp_path / "h").write_bytes(HALF)
    half = load_safetensors(str(tmp_path / "h"), framework="torch")["h"]
    assert half.dtype == torch.bfloat16
    assert half.tolist() == [1.5, -2.0]
    (tmp_path / "f4").write_bytes(written({"x": ("F4", [2, 4], bytes(4))}))
    if hasattr(torch, "float4_e2m1fn_x2"):
        assert load_safetensors(str(tmp_path / "f4"), framework="torch")["x"].shape == (2, 2)


def test_files_of_the_format_s_own_library_are_read(tmp_path: Path) -> None:
    theirs: Any = pytest.importorskip("safetensors.numpy")
    theirs.save_file(ARRAYS, tmp_path / "m.safetensors", {"a": "b"})
    found = load_safetensors(str(tmp_path / "m.safetensors"))
    assert {name: each.tolist() for name, each in found.items()} == {n: a.tolist() for n, a in ARRAYS.items()}
