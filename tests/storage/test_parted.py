"""An object in parts is there as one, once all of it is, and is never seen before."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from holdshort.storage.errors import Interrupted, ObjectNotFound, StoreUnavailable, UploadGone
from holdshort.storage.flow import Flow
from holdshort.storage.opening import open_store
from holdshort.storage.parted.protocol import Parted
from holdshort.storage.remote import RemoteStore
from holdshort.storage.store import Store
from support.faulty_s3 import FaultyS3
from support.waiting import eventually

PART = 5 * 2**20
PARTS = [os.urandom(PART), os.urandom(PART), b"the rest"]
WHOLE = b"".join(PARTS)
PATH = "checkpoints/run/1/weights.bin"


@pytest.fixture(params=["local", "s3", "s3 by s3fs"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return open_store(str(tmp_path / "store"))
    options = dict(request.getfixturevalue("s3_server").options)
    if request.param == "s3 by s3fs":
        options["client_kwargs"] = {**options["client_kwargs"], "verify": False}  # which signed URLs can't promise
    return open_store(request.getfixturevalue("s3_url"), storage_options=options)


@pytest.fixture
def parted(store: Store) -> Parted:
    found = store.parted
    assert found is not None
    return found


def put(parted: Parted, token: str, index: int) -> str:
    return parted.put(PATH, token, index, index * PART, PARTS[index], Flow())


def test_parts_in_any_order_and_again_make_one_plain_object(store: Store, parted: Parted) -> None:
    token = parted.begin(PATH)
    tags = {index: put(parted, token, index) for index in (2, 0, 1, 0)}
    assert store.size(PATH) is None
    assert [(found.token, time.time() - found.touched_at < 60) for found in parted.unfinished("checkpoints")] == [
        (token, True)
    ]
    for _ in range(2):  # done twice is done once
        parted.finish(PATH, token, [tags[index] for index in range(3)], len(WHOLE))
    assert store.read(PATH) == WHOLE
    assert store.size(PATH) == len(WHOLE)
    assert store.read_range(PATH, PART - 3, PART + 3, Flow()) == WHOLE[PART - 3 : PART + 3]
    assert list(parted.unfinished("checkpoints")) == []
    assert store.list("checkpoints/run/1") == ["weights.bin"]


def test_who_comes_too_late_changes_nothing(store: Store, parted: Parted) -> None:
    token = parted.begin(PATH)
    tags = [put(parted, token, index) for index in range(3)]
    parted.finish(PATH, token, tags, len(WHOLE))
    with pytest.raises(UploadGone):
        parted.put(PATH, token, 0, 0, b"X" * PART, Flow())
    assert store.read(PATH) == WHOLE


def test_what_is_dropped_is_gone(store: Store, parted: Parted) -> None:
    kept, token = parted.begin(PATH), parted.begin(PATH)
    tag = put(parted, token, 0)
    for _ in range(2):
        parted.drop(PATH, token)
    with pytest.raises(UploadGone):
        parted.finish(PATH, token, [tag], PART)
    assert [found.token for found in parted.unfinished("checkpoints")] == [kept]
    for found in parted.unfinished("checkpoints"):
        parted.drop(found.path, found.token)
    assert list(parted.unfinished("checkpoints")) == []
    assert store.size(PATH) is None


def test_parts_that_are_missing_are_noticed(store: Store, parted: Parted) -> None:
    token = parted.begin(PATH)
    tags = [put(parted, token, 0)]
    with pytest.raises(UploadGone):
        parted.finish(PATH, token, tags, len(WHOLE))


def test_a_part_that_two_have_put_is_known_by_its_bytes_where_tags_tell_nothing_of_them() -> None:
    """As with SSE-KMS: each PUT of the same bytes gets another ETag, and only the last one counts."""
    with FaultyS3(b"").serving() as server:
        server.encrypts = True
        first, second = (RemoteStore("s3://bucket", storage_options=server.options).parted for _ in range(2))
        assert first is not None
        assert second is not None
        token = first.begin(PATH)
        tags = [put(first, token, index) for index in range(3)]
        for index in (0, 2):
            assert put(second, token, index) != tags[index]
        first.finish(PATH, token, tags, len(WHOLE))
        assert server.objects[f"/bucket/{PATH}"][0] == WHOLE

        token = first.begin(PATH)
        tags = [put(first, token, index) for index in range(3)]
        second.put(PATH, token, 0, 0, bytes(PART), Flow())
        with pytest.raises(UploadGone, match="don't fit together"):
            first.finish(PATH, token, tags, len(WHOLE))
        assert server.objects[f"/bucket/{PATH}"][0] == WHOLE


def test_a_part_is_cut_off_when_it_has_to_stop(parted: Parted) -> None:
    token, flow, began = parted.begin(PATH), Flow(), threading.Event()
    data = os.urandom(256 * 2**20)
    raised: list[BaseException] = []

    def putting() -> None:
        try:
            while True:  # until it is stopped
                began.set()
                parted.put(PATH, token, 0, 0, data, flow)
        except Interrupted as error:
            raised.append(error)

    thread = threading.Thread(target=putting)
    thread.start()
    assert began.wait(10)
    flow.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert len(raised) == 1
    with pytest.raises(Interrupted):
        parted.put(PATH, token, 0, 0, b"x", flow)
    flow.go_on()
    parted.put(PATH, token, 0, 0, PARTS[0], flow)


def test_a_range_that_is_not_there_is_said(store: Store) -> None:
    store.create("a", b"0123456789")
    assert store.read_range("a", 2, 10, Flow()) == b"23456789"
    assert store.read_range("a", 4, 4, Flow()) == b""
    with pytest.raises(ObjectNotFound):
        store.read_range("a", 5, 11, Flow())
    with pytest.raises(ObjectNotFound):
        store.read_range("b", 0, 1, Flow())
    assert store.size("b") is None


def test_a_store_folder_that_is_away_is_not_made_again(tmp_path: Path) -> None:
    parted = open_store(str(tmp_path / "store")).parted
    assert parted is not None
    token = parted.begin(PATH)
    (tmp_path / "store").rename(tmp_path / "away")
    with pytest.raises(StoreUnavailable, match="not there"):
        parted.put(PATH, token, 0, 0, b"x", Flow())
    with pytest.raises(StoreUnavailable, match="not there"):
        parted.begin(PATH)
    assert not (tmp_path / "store").exists()


def test_in_memory_there_are_no_parts() -> None:
    assert open_store("memory://nothing-in-parts").parted is None


# -- how bytes flow --------------------------------------------------------------------------------------


def test_chunks_take_a_quarter_of_the_bound_whatever_the_rate() -> None:
    for bytes_per_s in (2e6, 50e6, 1e9):
        flow = Flow(bound_s=0.1)
        for _ in range(40):
            flow.moved(flow.chunk_bytes, flow.chunk_bytes / bytes_per_s)
        wanted = bytes_per_s * 0.025
        assert min(max(wanted, 64 * 2**10), 8 * 2**20) * 0.8 <= flow.chunk_bytes <= max(wanted, 64 * 2**10) * 1.01
        flow.moved(flow.chunk_bytes, 10.0)  # it got slow: at once the chunks are small
        assert flow.chunk_bytes == 64 * 2**10


def test_a_wait_ends_when_it_has_to_stop() -> None:
    flow, raised = Flow(), threading.Event()

    def waiting() -> None:
        with pytest.raises(Interrupted):
            flow.wait(600)
        raised.set()

    thread = threading.Thread(target=waiting)
    thread.start()
    flow.stop()
    eventually(raised.is_set, timeout=10, what="the wait ends")
    thread.join()
