"""Tensors of torch, and torch.distributed.checkpoint: with its own writer on our URLs, and with ours on steps."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch (pip install 'holdshort[torch]')")

from holdshort.storage import checkpoints  # noqa: E402
from holdshort.storage.checkpoints.attempts import attempts_of  # noqa: E402
from holdshort.storage.checkpoints.collecting import collect  # noqa: E402
from holdshort.storage.checkpoints.manifest import file_path  # noqa: E402
from holdshort.storage.checkpoints.runs import run_at  # noqa: E402
from holdshort.storage.errors import NotAllowedNow  # noqa: E402
from support.dcp import rank_by_rank  # noqa: E402
from support.places import Place  # noqa: E402


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch.distributed is not initialised
        yield


def is_equal(left: Any, right: Any) -> bool:
    same = left.dtype == right.dtype and left.shape == right.shape
    return same and torch.equal(left.detach().contiguous().reshape(-1).view(torch.uint8),
                                right.contiguous().reshape(-1).view(torch.uint8))  # fmt: skip


# -- states ----------------------------------------------------------------------------------------------


def test_tensors_of_every_type_come_back_as_they_were(place: Place) -> None:
    types = [
        torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
        torch.float32, torch.float64, torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2,
    ]  # fmt: skip
    tensors = {str(each): torch.randn(5, 7).to(each) for each in types}
    tensors |= {"scalar": torch.tensor(3.5), "empty": torch.empty(0, 4), "turned": torch.randn(30, 20).T,
                "part": torch.randn(10, 10)[2:5, ::3], "weights": torch.nn.Parameter(torch.randn(3))}  # fmt: skip
    options = {"storage_options": place.options}
    checkpoints.save(tensors, place.url, 1, **options)
    checkpoints.save_async(tensors, place.url, 2, **options).result(60)
    for step in (1, 2):
        found = checkpoints.restore(place.url, step=step, **options).state
        assert found.keys() == tensors.keys()
        assert all(is_equal(tensors[name], found[name]) for name in tensors)
        assert type(found["weights"]) is torch.Tensor


def test_a_training_goes_on_from_a_restored_state(tmp_path: Path) -> None:
    def training() -> tuple[Any, Any]:
        torch.manual_seed(1)
        model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
        return model, torch.optim.AdamW(model.parameters(), lr=1e-2)

    def train(model: Any, optimizer: Any, count: int) -> float:
        for _ in range(count):
            optimizer.zero_grad()
            loss = (model(torch.ones(4, 8)) - 3).square().mean()
            loss.backward()
            optimizer.step()
        return float(loss)

    model, optimizer = training()
    train(model, optimizer, 5)
    checkpoints.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "run", 5)
    wanted = train(model, optimizer, 5)
    again, other = training()
    state = checkpoints.restore(tmp_path / "run").state
    again.load_state_dict(state["model"])
    other.load_state_dict(state["optimizer"])
    assert train(again, other, 5) == wanted


def test_a_state_of_torch_can_be_had_as_arrays_and_the_other_way_round(tmp_path: Path) -> None:
    import numpy as np

    checkpoints.save({"t": torch.arange(6.0), "a": np.arange(6)}, tmp_path / "run", 1)
    arrays = checkpoints.restore(tmp_path / "run", framework="numpy").state
    assert isinstance(arrays["t"], np.ndarray)
    assert arrays["t"].tolist() == [0, 1, 2, 3, 4, 5]
    tensors = checkpoints.restore(tmp_path / "run", framework="torch").state
    assert torch.equal(tensors["a"], torch.arange(6))


@pytest.mark.parametrize(
    ("tensor", "why"),
    [(torch.empty(3, device="meta"), "has no content"), (torch.eye(3).to_sparse(), "make it dense")],
)
def test_a_tensor_that_cannot_be_saved_is_refused_by_its_place(tmp_path: Path, tensor: Any, why: str) -> None:
    with pytest.raises(NotAllowedNow, match=rf"state\['w'\] can't be saved: it .*{why}"):
        checkpoints.save({"w": tensor}, tmp_path / "run", 1)


# -- torch.distributed.checkpoint ------------------------------------------------------------------------


def _state() -> dict[str, Any]:
    return {"w": torch.randn(700, 900), "deep": {"n": torch.arange(5), "text": "x"}, "step": 5}


def _empty() -> dict[str, Any]:
    return {"w": torch.zeros(700, 900), "deep": {"n": torch.zeros(5, dtype=torch.int64), "text": ""}, "step": 0}


def _is_same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return (
        torch.equal(left["w"], right["w"])
        and torch.equal(left["deep"]["n"], right["deep"]["n"])
        and (left["deep"]["text"], left["step"]) == (right["deep"]["text"], right["step"])
    )


def test_its_own_writer_and_reader_work_on_our_urls(place: Place) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter

    url = {"local": "checkpoint::file://" + place.url}.get(place.kind, place.url)
    options = {place.kind: place.options} if place.options else {}
    for _ in range(2):  # the second one replaces the first
        state = _state()
        dcp.save(state, storage_writer=FsspecWriter(url, sync_files=False, **options), no_dist=True)
    found = _empty()
    dcp.load(found, storage_reader=FsspecReader(url, **options), no_dist=True)
    assert _is_same(found, state)


def test_our_writer_and_reader_keep_steps(place: Place) -> None:
    import torch.distributed.checkpoint as dcp

    from holdshort.storage.checkpoints.torch_dcp import HoldshortReader, HoldshortWriter

    options = {"storage_options": place.options}
    states = {step: _state() for step in (1, 2)}
    for step, state in states.items():
        dcp.save(state, storage_writer=HoldshortWriter(place.url, step, thread_count=step, **options), no_dist=True)
    assert checkpoints.steps(place.url, **options) == [1, 2]
    assert checkpoints.verify(place.url, 1, **options).is_whole
    assert ".metadata" in [file.path for file in checkpoints.manifest_of(place.url, 2, **options).files]
    for step in (1, "latest"):
        reader, found = HoldshortReader(place.url, step, **options), _empty()
        dcp.load(found, storage_reader=reader, no_dist=True)
        assert reader.step == (1 if step == 1 else 2)
        assert _is_same(found, states[reader.step])
    with pytest.raises(dcp.api.CheckpointException, match="committed before"):
        dcp.save(_state(), storage_writer=HoldshortWriter(place.url, 2, **options), no_dist=True)
    with pytest.raises(NotAllowedNow, match="leave checkpoint_id away"):
        dcp.save(_state(), checkpoint_id="x", storage_writer=HoldshortWriter(place.url, 3, **options), no_dist=True)


def test_a_flipped_bit_is_never_handed_out(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    from holdshort.storage.checkpoints.torch_dcp import HoldshortReader, HoldshortWriter

    url = str(tmp_path / "run")
    states = {step: _state() for step in (1, 2)}
    for step, state in states.items():
        dcp.save(state, storage_writer=HoldshortWriter(url, step), no_dist=True)
    run = run_at(url)
    manifest = checkpoints.manifest_of(url, 2)
    at = file_path(run.name, 2, manifest.attempt, "__0_0.distcp")
    data = bytearray(run.store.read(at))
    data[len(data) // 2] ^= 1
    run.store.upload(at, [bytes(data)])
    with pytest.raises(dcp.api.CheckpointException, match="CRC32C"):
        dcp.load(_empty(), storage_reader=HoldshortReader(url, 2), no_dist=True)
    reader, found = HoldshortReader(url), _empty()
    dcp.load(found, storage_reader=reader, no_dist=True)
    assert reader.step == 1
    assert _is_same(found, states[1])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # a thread of torch's own
def test_a_failing_writer_leaves_nothing_visible(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    from holdshort.storage.checkpoints.torch_dcp import HoldshortWriter

    writer = HoldshortWriter(tmp_path / "run", 1, thread_count=2)

    def broken(*args: Any) -> Any:
        raise RuntimeError("out of paper")

    state = _state()
    planner = dcp.DefaultSavePlanner()
    planner.resolve_data = broken  # type: ignore[method-assign]
    with pytest.raises(dcp.api.CheckpointException, match="out of paper"):
        dcp.save(state, storage_writer=writer, planner=planner, no_dist=True)
    assert checkpoints.steps(tmp_path / "run") == []
    dcp.save(state, storage_writer=writer, no_dist=True)  # the same writer can try again
    assert checkpoints.steps(tmp_path / "run") == [1]
    run = run_at(tmp_path / "run")
    assert len(attempts_of(run.store, run.name, 1)) == 2
    collect(run.store, run.name, now=lambda: time.time() + 7200)
    assert len(attempts_of(run.store, run.name, 1)) == 1
    assert checkpoints.verify(tmp_path / "run").is_whole


def test_it_saves_in_the_background(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    from holdshort.storage.checkpoints.torch_dcp import HoldshortWriter

    state = _state()
    # Torch wants a process group for this, if only of one.
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        saving = dcp.async_save(state, storage_writer=HoldshortWriter(tmp_path / "run", 1))
        saving.result(60)
    finally:
        torch.distributed.destroy_process_group()
    assert checkpoints.verify(tmp_path / "run").is_whole


def test_ranks_save_one_step_together_and_nothing_is_visible_if_one_fails(tmp_path: Path) -> None:
    url = str(tmp_path / "run")
    ranks = get_context("spawn").Process(target=rank_by_rank, args=(url, 2, str(tmp_path)))
    ranks.start()
    ranks.join(90)
    for rank in (0, 1):
        failed, loaded = (tmp_path / f"answer-{rank}").read_text().split("|")
        assert "CheckpointException" in failed
        assert "out of paper" in failed
        assert loaded == "[] True 5 5"
    assert {file.path for file in checkpoints.manifest_of(url).files} == {".metadata", "__0_0.distcp", "__1_0.distcp"}
