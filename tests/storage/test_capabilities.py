"""What a store was seen to keep: tried once, noted in the store, and never guessed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest

from holdshort.jobs.ledger.ledger import Ledger
from holdshort.storage.errors import StoreRefused
from holdshort.storage.opening import open_store
from holdshort.storage.patience import PatientStore
from holdshort.storage.store import Capabilities, Store
from support.faulty_gcs import FaultyGcs
from support.places import Place

MARKER = "holdshort.json"
OLD = {"layout": 1, "exclusive_create": "probed"}
BOTH = Capabilities(exclusive_create=True, conditional_overwrite=True)
CREATE_ONLY = Capabilities(exclusive_create=True, conditional_overwrite=False)


@pytest.fixture
def gcs() -> Iterator[FaultyGcs]:
    pytest.importorskip("gcsfs")
    with FaultyGcs().serving() as serving:
        yield serving


def opened(gcs: FaultyGcs) -> Store:
    return open_store("gs://bkt/store", storage_options=gcs.options)


def test_a_store_says_what_it_keeps_and_so_do_its_marker_and_its_ledger(place: Place, store: Store) -> None:
    expected = CREATE_ONLY if place.kind.startswith("local") else BOTH
    assert store.capabilities == expected
    assert Ledger(PatientStore(store)).capabilities == expected
    assert orjson.loads(store.read(MARKER)) == {
        **OLD, "conditional_overwrite": "probed" if expected.conditional_overwrite else "absent",
    }  # fmt: skip
    assert place.open().capabilities == expected
    assert store.list("probe") == []


def test_an_overwrite_bound_to_a_tag_happens_only_while_the_object_has_it(store: Store) -> None:
    store.create("latest", b"one")
    if not store.capabilities.conditional_overwrite:
        for call in (lambda: store.read_tagged("latest"), lambda: store.replace_if("latest", b"two", "tag")):
            with pytest.raises(StoreRefused, match="has no conditional overwrite"):
                call()
        assert store.read("latest") == b"one"
        return
    data, tag = store.read_tagged("latest")
    assert data == b"one"
    assert store.replace_if("latest", b"two", tag)
    assert not store.replace_if("latest", b"three", tag)
    assert store.read("latest") == b"two"
    store.replace("latest", b"by somebody else")
    _, tag = store.read_tagged("latest")
    store.delete("latest")
    assert not store.replace_if("latest", b"four", tag)
    assert store.list("probe") == []


def test_of_many_that_count_up_at_once_none_loses_a_step(store: Store) -> None:
    if not store.capabilities.conditional_overwrite:
        pytest.skip("it says that it can't")
    store.create("counter", b"0")

    def count_up(times: int) -> None:
        while times:
            data, tag = store.read_tagged("counter")
            times -= store.replace_if("counter", b"%d" % (int(data) + 1), tag)

    with ThreadPoolExecutor(6) as pool:
        for each in [pool.submit(count_up, 5) for _ in range(6)]:
            each.result()
    assert store.read("counter") == b"30"


# -- tried once ------------------------------------------------------------------------------------------


def test_a_store_that_was_tried_is_only_asked_for_its_marker(gcs: FaultyGcs) -> None:
    opened(gcs)
    gcs.asked.clear()
    assert opened(gcs).capabilities == BOTH
    assert len(gcs.asked) == 1


def test_a_marker_from_before_is_tried_again_and_keeps_what_else_it_says(place: Place, store: Store) -> None:
    expected = store.capabilities
    store.replace(MARKER, orjson.dumps({**OLD, "more": [1]}))
    assert place.open().capabilities == expected
    marker = orjson.loads(store.read(MARKER))
    assert marker.pop("conditional_overwrite") in ("probed", "absent")
    assert marker == {**OLD, "more": [1]}


def test_several_that_find_an_old_marker_at_once_all_get_it_right(gcs: FaultyGcs) -> None:
    store = opened(gcs)
    store.replace(MARKER, orjson.dumps(OLD))
    with ThreadPoolExecutor(6) as pool:
        assert [each.result().capabilities for each in [pool.submit(opened, gcs) for _ in range(6)]] == [BOTH] * 6
    assert orjson.loads(store.read(MARKER)) == {**OLD, "conditional_overwrite": "probed"}
    assert store.list("probe") == []


def test_who_may_only_read_opens_an_old_store_all_the_same(gcs: FaultyGcs, caplog: pytest.LogCaptureFixture) -> None:
    opened(gcs).replace(MARKER, orjson.dumps(OLD))
    gcs.is_read_only = True
    assert opened(gcs).capabilities == CREATE_ONLY
    assert "can't be tried in the store gs://bkt/store" in caplog.text
    gcs.is_read_only = False
    assert opened(gcs).capabilities == BOTH


def test_a_store_that_overwrites_whatever_the_condition_is_seen_not_to_keep_it(gcs: FaultyGcs) -> None:
    gcs.is_careless = True
    store = opened(gcs)
    assert store.capabilities == CREATE_ONLY
    assert orjson.loads(store.read(MARKER))["conditional_overwrite"] == "absent"
    with pytest.raises(StoreRefused, match="has no conditional overwrite"):
        store.replace_if("x", b"", "tag")


# -- refused ---------------------------------------------------------------------------------------------


def test_the_emulator_which_ignores_conditions_is_refused_as_a_store(gcs_emulator: Any, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(StoreRefused, match="lets an object be created twice"):
            open_store(f"gs://{gcs_emulator.BUCKET}/{tmp_path.name}", storage_options=gcs_emulator.options)
