"""Checkpoints: whole or not there, and verifiable."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdshort.storage.checkpoints.manifest import (
    CopiedFile,
    Manifest,
    commit_manifest,
    decoded,
    file_path,
    manifest_path,
    read_manifest,
    steps,
    verify,
)
from holdshort.storage.checksums import Sum
from holdshort.storage.errors import Corrupt, ObjectNotFound
from holdshort.storage.opening import open_store
from holdshort.storage.store import Store, check_path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def _copied(store: Store, attempt: str, path: str, data: bytes) -> CopiedFile:
    store.upload(file_path("run", 7, attempt, path), [data])
    found = Sum()
    found.add(data[:3])
    found.add(data[3:])
    return CopiedFile(path, found.size_bytes, found.crc32c)


def test_a_checksum_is_that_of_the_standard() -> None:
    found = Sum()
    found.add(b"123456789")
    assert (found.size_bytes, found.crc32c) == (9, "e3069283")  # the check value of CRC-32C
    assert Sum().crc32c == "00000000"


def test_a_step_is_there_once_its_manifest_is(store: Store) -> None:
    file = _copied(store, "one", "weights/model.bin", b"0123456789")
    assert steps(store, "run") == []
    with pytest.raises(ObjectNotFound):
        read_manifest(store, "run", 7)
    assert commit_manifest(store, "run", 7, attempt="one", files=[file]) == "one"
    assert steps(store, "run") == [7]
    assert read_manifest(store, "run", 7) == Manifest("run", 7, "one", (file,))


def test_of_several_attempts_one_holds_the_step_and_all_learn_which(store: Store) -> None:
    names = [f"attempt-{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        holders = set(pool.map(lambda name: commit_manifest(store, "run", 7, attempt=name, files=[]), names))
    assert len(holders) == 1
    assert read_manifest(store, "run", 7).attempt in holders
    assert commit_manifest(store, "run", 7, attempt="late", files=[]) in holders


def test_steps_are_in_the_order_of_their_numbers(store: Store) -> None:
    for step in (1000, 9, 123456, 10):
        commit_manifest(store, "run", step, attempt="a", files=[])
    assert steps(store, "run") == [9, 10, 1000, 123456]
    assert steps(store, "another") == []


def test_verifying_tells_a_missing_and_a_changed_file_from_a_good_one(store: Store) -> None:
    files = [_copied(store, "a", name, name.encode() * 10) for name in ("changed", "good", "missing", "shorter")]
    commit_manifest(store, "run", 7, attempt="a", files=files)
    store.replace(file_path("run", 7, "a", "changed"), b"Changed" * 10)
    store.replace(file_path("run", 7, "a", "shorter"), b"s")
    store.delete(file_path("run", 7, "a", "missing"))
    found = {file.path: problem for file, problem in verify(store, read_manifest(store, "run", 7))}
    assert found["good"] == ""
    assert "missing" in found["missing"]
    assert "CRC32C" in found["changed"]
    assert "1 bytes" in found["shorter"]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"version": 1}', b'{"version": 99}'])
def test_a_manifest_that_cannot_be_read_is_corrupt(store: Store, data: bytes) -> None:
    store.create(manifest_path("run", 7), data)
    with pytest.raises(Corrupt, match="step 7 of run"):
        read_manifest(store, "run", 7)


@given(st.text(st.characters(blacklist_characters="/", blacklist_categories=["Cs"]), min_size=1, max_size=20))
def test_any_file_name_can_be_stored_and_is_found_again(name: str) -> None:
    path = check_path(file_path("run", 7, "attempt", name))
    assert decoded(path.rpartition("/")[2]) == name


def test_a_hostile_file_name_stays_inside_its_attempt() -> None:
    assert file_path("run", 7, "a", "../../x") == "checkpoints/run/000000000007/a/%2E./%2E./x"
