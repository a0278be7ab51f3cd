"""What was saved is there as a whole and comes back as it was; what can't be saved is refused beforehand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdshort.storage import checkpoints
from holdshort.storage.checkpoints.attempts import attempts_of
from holdshort.storage.checkpoints.manifest import file_path, manifest_path
from holdshort.storage.checkpoints.runs import run_at
from holdshort.storage.checkpoints.state import files_of
from holdshort.storage.errors import (
    AttemptLost,
    Corrupt,
    NotAllowedNow,
    ObjectNotFound,
    SettingsError,
    StoreRefused,
)
from support.crashing import is_same, warm_server, without_main
from support.places import Place
from support.ranks import saves_and_leaves, saves_share
from support.waiting import eventually

STATE: dict[Any, Any] = {
    "model": {"layer.0": {"w": np.arange(600_000, dtype=np.float32).reshape(300, 2000), "b": np.zeros(0, np.float64)}},
    "optimizer": {"state": {0: {"step": np.float32(3), "half": np.ones((2, 3), np.float16)}}, "groups": [{"lr": 1e-3}]},
    "rng": b"\x00\x01state", "epoch": 7, "best": float("-inf"), "none": None, "done": False, "betas": (0.9, (0.99,)),
    "strided": np.arange(100).reshape(10, 10).T[2:5], "big-endian": np.arange(5, dtype=">i4"), "naïve ☃": "ü",
    "complex": np.array([1 + 2j]), "large": 2**80,
}  # fmt: skip
FILES = {".metadata": b"plan", "weights/0.bin": bytes(range(256)) * 9000, "weights/deep/ü 1.bin": b"x", "empty": b""}


def folder_of(tmp_path: Path, files: dict[str, bytes] = FILES) -> Path:
    folder = tmp_path / "source"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def flip(url: str, step: int, path: str) -> None:
    """Flip one bit of a file in the store."""
    run = run_at(url)
    manifest = checkpoints.manifest_of(url, step)
    at = file_path(run.name, step, manifest.attempt, path)
    data = bytearray(run.store.read(at))
    data[len(data) // 2] ^= 1
    run.store.upload(at, [bytes(data)])


# -- what was saved comes back ---------------------------------------------------------------------------


def test_a_state_comes_back_as_it_was_from_every_kind_of_store(place: Place) -> None:
    options = {"storage_options": place.options}
    saved = checkpoints.save(STATE, place.url, 1000, **options)
    assert (saved.step, saved.manifest) == (1000, checkpoints.manifest_of(place.url, **options))
    assert saved.size_bytes > 2_400_000
    found = checkpoints.restore(place.url, **options)
    assert is_same(STATE | {"big-endian": STATE["big-endian"].astype("<i4")}, found.state)
    found.state["model"]["layer.0"]["w"][0, 0] = 5  # its memory is one's own
    assert checkpoints.verify(place.url, **options).is_whole
    assert checkpoints.steps(place.url, **options) == [1000]
    run = run_at(place.url, place.options)
    (left,) = attempts_of(run.store, run.name, 1000).values()
    assert (left.leases, left.parts, left.has_fate) == ((), (), False)


def test_a_folder_comes_back_as_it_was(place: Place, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    checkpoints.save(
        folder_of(tmp_path), place.url, 5, storage_options=place.options, progress=lambda *each: seen.append(each)
    )
    assert seen[-1] == (sum(map(len, FILES.values())),) * 2
    found = checkpoints.restore(place.url, tmp_path / "out", storage_options=place.options)
    assert (found.manifest.step, content(tmp_path / "out")) == (5, FILES)
    with pytest.raises(NotAllowedNow, match="say into which folder"):
        checkpoints.restore(place.url, storage_options=place.options)


@pytest.mark.parametrize("named", ["source", "./source/", "other/../source", "."])
def test_a_folder_named_from_here_comes_back_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    folder = Path(folder_of(tmp_path)).rename(tmp_path / "source")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(folder if named == "." else tmp_path)
    checkpoints.save(named, tmp_path / "run", 5)
    checkpoints.save_async(named, tmp_path / "run", 6).result()
    for step in (5, 6):
        checkpoints.restore(tmp_path / "run", tmp_path / f"out-{step}", step=step)
        assert content(tmp_path / f"out-{step}") == FILES


def test_a_folder_from_afar_is_saved(tmp_path: Path) -> None:
    files = {**FILES, "large.bin": os.urandom(17_000_001)}
    far = fsspec.filesystem("memory")
    far.pipe({f"/{tmp_path.name}/source/{name}": data for name, data in files.items()})
    checkpoints.save(f"memory://{tmp_path.name}/source", tmp_path / "run", 5)
    checkpoints.restore(tmp_path / "run", tmp_path / "out")
    assert content(tmp_path / "out") == files


def test_a_run_in_a_store_is_one_of_that_store(tmp_path: Path) -> None:
    from holdshort.storage.checkpoints.manifest import read_manifest
    from holdshort.storage.checkpoints.restoring import restore
    from holdshort.storage.opening import open_store

    url = f"{tmp_path}/store/checkpoints/run-7"
    saved = checkpoints.save(folder_of(tmp_path), url, 5)
    store = open_store(str(tmp_path / "store"))
    assert read_manifest(store, "run-7", 5) == saved.manifest
    restore(store, "run-7", tmp_path / "out")
    assert content(tmp_path / "out") == FILES
    # A run of its own is laid out in the same way.
    checkpoints.save(folder_of(tmp_path), tmp_path / "own" / "run-7", 5)
    names = {str(p.relative_to(tmp_path / "own" / "run-7")) for p in (tmp_path / "own" / "run-7").rglob("*.json")}
    assert names == {"000000000005.json", "holdshort.json"}


def test_weights_that_are_tied_are_stored_once_and_come_back_tied(tmp_path: Path) -> None:
    weights = np.ones(500_000)
    checkpoints.save({"in": weights, "out": weights}, tmp_path / "run", 1)
    found = checkpoints.restore(tmp_path / "run")
    assert found.state["in"] is found.state["out"]
    assert checkpoints.manifest_of(tmp_path / "run").files[0].size_bytes < 2 * weights.nbytes


def test_the_tensors_are_a_file_that_others_of_the_format_can_read(tmp_path: Path) -> None:
    state = {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": {"c": np.ones(3)}, "d": np.array([True])}
    checkpoints.save(state, tmp_path / "run", 1)
    (path,) = (tmp_path / "run").rglob("state-00000.safetensors")
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    assert {name: (entry["dtype"], entry["shape"]) for name, entry in header.items()} == {
        "a": ("I16", [2, 3]), "b.c": ("F64", [3]), "d": ("BOOL", [1])
    }  # fmt: skip
    ends = sorted(entry["data_offsets"] for entry in header.values())
    assert [begin for begin, _ in ends] == [0, *(end for _, end in ends[:-1])]
    assert ends[-1][1] == len(data) - 8 - length
    begin, end = header["a"]["data_offsets"]
    assert np.frombuffer(data[8 + length + begin : 8 + length + end], np.int16).tolist() == list(range(6))


def test_large_states_are_cut_into_files_and_each_tensor_lies_where_its_type_needs_it() -> None:
    state = {f"t{number}": np.ones(number, np.uint8 if number % 2 else np.float64) for number in range(1, 30)}
    files = files_of(state, file_bytes=500)
    assert len(files) > 3
    for file in files[:-1]:
        assert len(file.head) % 8 == 0
        at = 0
        for tensor in file.tensors:
            assert at % tensor.element_bytes == 0
            at += tensor.size_bytes


_leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.binary(max_size=9)
    | st.sampled_from([np.arange(4), np.float64(2.5), np.zeros((2, 0, 3), np.int8), np.array(7, np.uint16)])
)  # fmt: skip
_trees = st.recursive(
    _leaves,
    lambda each: (
        st.lists(each, max_size=3)
        | st.lists(each, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=6) | st.integers(), each, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=6) | st.integers(), _trees, max_size=4))
@settings(max_examples=40)
def test_any_state_comes_back_as_it_was(state: dict[Any, Any]) -> None:
    url = f"memory://any/run-{os.urandom(6).hex()}"
    checkpoints.save(state, url, 0)
    assert is_same(state, checkpoints.restore(url).state)
    checkpoints.discard(url, 0)


# -- what can't be saved, or restored, is refused --------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "where"),
    [({"a": [1, {"b": object()}]}, r"state\['a'\]\[1\]\['b'\] is a object"), ({"a": {1.5: 2}}, "the key 1.5, a float"),
     ({"a": np.array(["x"])}, "type <U1, which can't be saved"), ({"a": {1, 2}}, "is a set")],
)  # fmt: skip
def test_what_would_have_to_be_pickled_is_refused_by_its_place(
    tmp_path: Path, state: dict[str, Any], where: str
) -> None:
    for save in (checkpoints.save, checkpoints.save_async):
        with pytest.raises(NotAllowedNow, match=where):
            save(state, tmp_path / "run", 1)
    assert checkpoints.steps(tmp_path / "run") == []


def test_a_state_that_holds_itself_is_refused(tmp_path: Path) -> None:
    state: dict[str, Any] = {}
    state["me"] = state
    with pytest.raises(NotAllowedNow, match="hold itself"):
        checkpoints.save(state, tmp_path / "run", 1)


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for step in (-1, 10**12, 1.0, True, "1"):
        with pytest.raises(ValueError, match="step is"):
            checkpoints.save({}, run, step)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rank is 2 of 2"):
        checkpoints.save({}, run, 1, rank=2, ranks=2, token="t")
    with pytest.raises(ValueError, match="token"):
        checkpoints.save({}, run, 1, rank=1, ranks=2)
    with pytest.raises(ObjectNotFound, match="no folder with files"):
        checkpoints.save(tmp_path / "nowhere", run, 1)
    with pytest.raises(SettingsError, match="names no run"):
        checkpoints.save({}, "s3://bucket", 1)
    with pytest.raises(SettingsError, match="can't be kept behind 'zip'"):
        checkpoints.save({}, "zip::s3://bucket/run", 1)
    with pytest.raises(StoreRefused, match="ftp://"):
        checkpoints.save({}, "ftp://host/run", 1)
    with pytest.raises(ValueError, match="at least 1"):
        checkpoints.prune(run, 0)
    with pytest.raises(ValueError, match="at least 60"):
        checkpoints.collect(run, silent_s=1)
    with pytest.raises(ObjectNotFound, match="No step of run"):
        checkpoints.restore(run)
    with pytest.raises(ObjectNotFound, match="no step 3"):
        checkpoints.restore(run, step=3)


def test_a_step_is_never_overwritten_but_can_be_discarded_and_saved_anew(place: Place) -> None:
    options = {"storage_options": place.options}
    first = checkpoints.save({"a": 1}, place.url, 1, **options)
    with pytest.raises(NotAllowedNow, match=f"committed before, by {first.manifest.attempt}"):
        checkpoints.save({"a": 2}, place.url, 1, **options)
    assert checkpoints.restore(place.url, **options).state == {"a": 1}
    checkpoints.discard(place.url, 1, **options)
    assert checkpoints.steps(place.url, **options) == []
    checkpoints.save({"a": 2}, place.url, 1, **options)
    assert checkpoints.restore(place.url, **options).state == {"a": 2}


def test_a_file_that_changes_while_it_is_saved_is_noticed(tmp_path: Path) -> None:
    from holdshort.storage.errors import ObjectChanged

    source = folder_of(tmp_path, {"a.bin": bytes(20_000_000)})

    def grow(done: int, total: int) -> None:
        with (source / "a.bin").open("ab") as file:
            file.write(b"more")

    with pytest.raises(ObjectChanged, match=r"a\.bin"):
        checkpoints.save(source, tmp_path / "run", 1, progress=grow)
    assert checkpoints.steps(tmp_path / "run") == []
    assert not list((tmp_path / "run").rglob("*.bin"))  # what was written of it is gone


def test_restore_takes_the_newest_that_is_whole_and_says_what_it_passed_over(tmp_path: Path) -> None:
    url = str(tmp_path / "run")
    for step in (1, 2, 3, 4):
        checkpoints.save({"step": step, "w": np.full(100_000, step)}, url, step)
    flip(url, 4, "state-00000.safetensors")
    run = run_at(url)
    run.store.delete(manifest_path(run.name, 3))
    run.store.create(manifest_path(run.name, 3), b'{"version": 99}')
    found = checkpoints.restore(url)
    assert found.step == found.state["step"] == 2
    assert [step for step, _ in found.passed_over] == [4, 3]
    assert "CRC32C" in found.passed_over[0][1]
    assert "newer version" in found.passed_over[1][1]
    assert checkpoints.newest_whole(url).step == 2
    assert not checkpoints.verify(url, 4).is_whole
    with pytest.raises(Corrupt, match="CRC32C"):
        checkpoints.restore(url, step=4)
    assert checkpoints.restore(url, tmp_path / "out").manifest.step == 2
    for step in (1, 2):
        flip(url, step, "state.json")
    with pytest.raises(Corrupt, match=r"No step of run .* is whole\. step 4: "):
        checkpoints.restore(url)
    with pytest.raises(Corrupt, match="No step of run"):
        checkpoints.newest_whole(url)


# -- in the background -----------------------------------------------------------------------------------


class Gate:
    """Holds an upload until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, done: int, total: int) -> None:
        self.reached.set()
        assert self.opened.wait(30)


def test_a_state_may_change_once_save_async_has_returned(place: Place) -> None:
    weights, turned = np.arange(3_000_000), np.arange(10_000).reshape(100, 100).T
    state = {"w": weights, "t": turned, "n": [1]}
    gate = Gate()
    saving = checkpoints.save_async(state, place.url, 1, storage_options=place.options, progress=gate)
    assert gate.reached.wait(30)
    weights[:], turned[:] = 0, 0
    state["n"].append(2)
    assert not saving.done()
    assert checkpoints.steps(place.url, storage_options=place.options) == []
    with pytest.raises(TimeoutError, match="it goes on"):
        saving.result(timeout=0.01)
    saving.wait_staged()
    gate.opened.set()
    saved = saving.result(timeout=60)
    assert 0 < saved.staged_s < saved.took_s
    found = checkpoints.restore(place.url, storage_options=place.options).state
    assert np.array_equal(found["w"], np.arange(3_000_000))
    assert np.array_equal(found["t"], np.arange(10_000).reshape(100, 100).T)
    assert found["n"] == [1]


def test_a_second_save_waits_for_the_memory_of_the_first_or_is_refused(tmp_path: Path) -> None:
    gate = Gate()
    first = checkpoints.save_async({"w": np.ones(1000)}, tmp_path / "run", 1, progress=gate)
    assert gate.reached.wait(30)
    with pytest.raises(NotAllowedNow, match="still being uploaded"):
        checkpoints.save_async({"w": np.ones(1000)}, tmp_path / "run", 2, if_busy="refuse")
    begun: list[checkpoints.Saving] = []
    second = threading.Thread(
        target=lambda: begun.append(checkpoints.save_async({"w": np.full(1000, 2.0)}, tmp_path / "run", 3))
    )
    second.start()
    second.join(0.2)
    assert second.is_alive()
    assert begun == []
    gate.opened.set()
    second.join(30)
    assert first.result(30).step == 1
    assert begun[0].result(30).step == 3
    assert checkpoints.restore(tmp_path / "run", step=1).state["w"].sum() == 1000
    assert checkpoints.restore(tmp_path / "run", step=3).state["w"].sum() == 2000


def test_the_copy_may_be_made_later(tmp_path: Path) -> None:
    weights = np.ones(2_000_000)
    saving = checkpoints.save_async({"w": weights}, tmp_path / "run", 1, defer_copy=True)
    saving.wait_staged(30)
    weights[:] = 0
    assert saving.result(30).staged_s > 0
    assert checkpoints.restore(tmp_path / "run").state["w"].sum() == weights.size


def test_the_memory_is_used_again(tmp_path: Path) -> None:
    from holdshort.storage.checkpoints import saving

    state = {"w": np.ones(500_000)}
    checkpoints.save_async(state, tmp_path / "run", 1).result(30)
    before = saving._area._memory
    checkpoints.save_async(state, tmp_path / "run", 2).result(30)
    assert saving._area._memory is before


def test_a_folder_is_saved_in_the_background_too(tmp_path: Path) -> None:
    saving = checkpoints.save_async(folder_of(tmp_path), tmp_path / "run", 1)
    assert saving.result(30).size_bytes == sum(map(len, FILES.values()))
    missing = checkpoints.save_async(tmp_path / "nowhere", tmp_path / "run", 2)
    with pytest.raises(ObjectNotFound, match="no folder with files"):
        missing.result(30)


def test_a_failure_in_the_background_is_told_by_its_result(tmp_path: Path) -> None:
    checkpoints.save({"a": 1}, tmp_path / "run", 1)
    saving = checkpoints.save_async({"a": 2}, tmp_path / "run", 1)
    with pytest.raises(NotAllowedNow, match="committed before"):
        saving.result(30)
    assert saving.done()
    assert isinstance(saving.error, NotAllowedNow)
    assert checkpoints.save({"a": 3}, tmp_path / "run", 2).step == 2  # it was told, so nothing is raised again


def test_a_failure_that_nobody_asked_for_is_told_by_the_next_save_of_the_run(tmp_path: Path) -> None:
    checkpoints.save({"a": 1}, tmp_path / "run", 1)
    saving = checkpoints.save_async({"a": 2}, tmp_path / "run", 1)
    eventually(saving.done, what="it has failed")
    checkpoints.save({"a": 1}, tmp_path / "another", 1)
    with pytest.raises(NotAllowedNow, match="committed before") as raised:
        checkpoints.save({"a": 3}, tmp_path / "run", 2)
    assert "step 2 was not begun" in raised.value.__notes__[0]
    assert checkpoints.steps(tmp_path / "run") == [1]
    assert checkpoints.save({"a": 3}, tmp_path / "run", 2).step == 2


def _run(code: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(sys.path)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": path}
    )


def test_a_process_ends_only_when_its_save_is_committed(tmp_path: Path, s3_server: Any, s3_url: str) -> None:
    for url, options in ((str(tmp_path / "run"), {}), (f"{s3_url}/run", s3_server.options)):
        done = _run(
            f"from holdshort.storage import checkpoints\n"
            f"checkpoints.save_async({{'w': bytes(30_000_000)}}, {url!r}, 1, storage_options={options!r})"
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert checkpoints.steps(url, storage_options=options) == [1]


def test_a_failure_that_nobody_learned_of_is_logged_at_exit(tmp_path: Path) -> None:
    done = _run(
        f"from support.ranks import fails_and_leaves\nfails_and_leaves({str(tmp_path / 'run')!r}, '{tmp_path}/log')"
    )
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "log").read_text()
    assert log.count("committed before") == 2
    assert "Nobody asked for the result of <Saving of step 1 of run: failed>" in log


def test_a_forked_child_saves_on_its_own(tmp_path: Path) -> None:
    gate = Gate()
    saving = checkpoints.save_async({"w": np.zeros(10)}, tmp_path / "run", 1, progress=gate)
    assert gate.reached.wait(30)
    child = get_context("fork").Process(target=saves_and_leaves, args=(str(tmp_path / "other"),))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    gate.opened.set()
    saving.result(30)
    assert checkpoints.restore(tmp_path / "other").state["w"].sum() == np.arange(3_000_000).sum()


# -- several ranks ---------------------------------------------------------------------------------------


def _together(
    url: str, options: dict[str, Any], tmp_path: Path, ranks: int, token: str, missing: int = -1
) -> list[str]:
    context = warm_server()
    answers = [tmp_path / f"{token}-{rank}" for rank in range(ranks)]
    children = [
        context.Process(target=saves_share, args=(url, options, rank, ranks, token, str(answers[rank])))
        for rank in range(ranks)
        if rank != missing
    ]
    with without_main():
        for child in children:
            child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    return [answer.read_text() for answer in answers if answer.exists()]


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_ranks_save_together_and_one_commits_for_all(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url, options = str(tmp_path / "run"), {}
    if kind == "s3":
        options = request.getfixturevalue("s3_server").options
        url = f"{request.getfixturevalue('s3_url')}/run"
    answers = _together(url, options, tmp_path, 3, "try1")
    attempt = checkpoints.manifest_of(url, storage_options=options).attempt
    assert answers == [f"{attempt} 6"] * 3
    for rank in range(3):
        found = checkpoints.restore(url, rank=rank, ranks=3, storage_options=options)
        assert (found.state["rank"], found.state["w"].sum()) == (rank, 1000 * rank)
    with pytest.raises(NotAllowedNow, match="say whose, by rank and ranks"):
        checkpoints.restore(url, storage_options=options)
    run = run_at(url, options)
    (left,) = attempts_of(run.store, run.name, 5).values()
    assert (left.leases, left.parts, left.has_fate) == ((), (), False)


def test_a_rank_that_fails_is_told_to_the_others_and_nothing_is_visible(tmp_path: Path) -> None:
    url, said = tmp_path / "run", list[BaseException]()

    def other() -> None:
        try:
            checkpoints.save({"rank": 1}, url, 5, rank=1, ranks=2, token="t", timeout_s=30)
        except AttemptLost as error:
            said.append(error)

    def fail(done: int, total: int) -> None:
        raise RuntimeError("out of paper")

    thread = threading.Thread(target=other)
    thread.start()
    with pytest.raises(RuntimeError, match="out of paper"):
        checkpoints.save({"rank": 0}, url, 5, rank=0, ranks=2, token="t", progress=fail)
    thread.join(30)
    assert "rank 0 failed: RuntimeError: out of paper" in str(said[0])
    assert checkpoints.steps(url) == []
    with pytest.raises(AttemptLost, match="out of paper"):  # a try is over once it has failed
        checkpoints.save({"rank": 1}, url, 5, rank=1, ranks=2, token="t")
    saved = threading.Thread(target=lambda: checkpoints.save({"rank": 1}, url, 5, rank=1, ranks=2, token="u"))
    saved.start()
    assert len(checkpoints.save({"rank": 0}, url, 5, rank=0, ranks=2, token="u").manifest.files) == 2
    saved.join()


def test_a_rank_lets_its_neighbours_copy_before_it_uploads(tmp_path: Path) -> None:
    told: list[float] = []
    other = threading.Thread(target=lambda: checkpoints.save({}, tmp_path / "run", 5, rank=1, ranks=2, token="t"))
    other.start()
    called = time.monotonic()
    saving = checkpoints.save_async(
        {"w": np.zeros(128 * 2**20, np.uint8)}, tmp_path / "run", 5, rank=0, ranks=2, token="t",
        progress=lambda done, total: told.append(time.monotonic()),
    )  # fmt: skip
    staged_s = saving.result(60).staged_s
    other.join(60)
    assert told[0] - called >= 2 * staged_s > 0


def test_ranks_that_write_the_same_name_are_told(tmp_path: Path) -> None:
    source, said = folder_of(tmp_path), list[str]()

    def one(rank: int) -> None:
        try:
            checkpoints.save(source, tmp_path / "run", 5, rank=rank, ranks=2, token="t", timeout_s=30)
        except AttemptLost as error:
            said.append(str(error))

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(said) == 2
    assert all("each needs names of its own" in each for each in said)
    assert checkpoints.steps(tmp_path / "run") == []


def test_a_rank_that_never_comes_fails_the_others_after_a_time(tmp_path: Path) -> None:
    with pytest.raises(AttemptLost, match=r"ranks \[1\] have not written their part within 0\.2 s"):
        checkpoints.save({}, tmp_path / "run", 5, rank=0, ranks=2, token="t", timeout_s=0.2)
    with pytest.raises(AttemptLost, match="was not saved"):  # the late one
        checkpoints.save({}, tmp_path / "run", 5, rank=1, ranks=2, token="t", timeout_s=30)
    assert checkpoints.steps(tmp_path / "run") == []
