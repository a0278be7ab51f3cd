"""Google Cloud Storage, read straight from its JSON API: what rests on generations, tokens and its own answers.

What holds for every store is in test_reading, which runs on `gs` too.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import fsspec
import pytest

from holdshort.storage.errors import ObjectChanged, StoreUnavailable
from holdshort.storage.filesystem import TrainingFileSystem
from holdshort.storage.reading.direct_gcs import DirectGcs
from holdshort.storage.reading.http_origin import NotByHttp
from support.faulty_gcs import FaultyGcs

pytest.importorskip("gcsfs")

MIB = 2**20
CONTENT = random.Random(12).randbytes(5 * MIB + 321)
OTHER = bytes(reversed(CONTENT))


@pytest.fixture
def store() -> Iterator[FaultyGcs]:
    store = FaultyGcs()
    store.put("a/1", CONTENT)
    with store.serving():
        yield store


def read_by(store: FaultyGcs, *, token: Any = "anon", options: dict[str, Any] | None = None, **values: Any) -> Any:
    options = {**store.options, "token": token, **(options or {})}
    return TrainingFileSystem(target_protocol="gs", target_options=options, **{"part_bytes": MIB, **values})


# -- bytes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["503", "500", "429", "cut", "reset"])
def test_passing_faults_cost_another_try_and_no_byte(store: FaultyGcs, fault: str) -> None:
    fs = read_by(store)
    store.faults.extend([fault, fault, "", fault])
    assert fs.cat_file("bkt/a/1") == CONTENT
    with fs.open("bkt/a/1") as file:
        store.faults.extend(["", fault, fault])
        assert b"".join(iter(lambda: file.read(400_000), b"")) == CONTENT


def test_a_part_that_broke_off_goes_on_where_it_broke(store: FaultyGcs) -> None:
    fs = read_by(store)
    fs.cat_file("bkt/a/1", start=0, end=1)
    before = fs.reader.traffic.fetched_bytes
    store.faults.append("cut")
    assert fs.cat_file("bkt/a/1", start=MIB, end=2 * MIB) == CONTENT[MIB : 2 * MIB]
    assert fs.reader.traffic.fetched_bytes - before == MIB


def test_a_store_that_stays_away_is_said_with_what_it_answered(store: FaultyGcs) -> None:
    store.faults.extend(["503"] * 6)
    with pytest.raises(StoreUnavailable, match=r"gs://bkt/a/1 can't be read, after 6 tries: status 503 \(Said\)"):
        read_by(store).cat_file("bkt/a/1")


def test_an_answer_with_other_bytes_than_asked_for_is_never_handed_out(store: FaultyGcs) -> None:
    for fault, at in (("other range", 0), ("no range", 2 * MIB)):
        with read_by(store).open("bkt/a/1") as file:
            file.seek(at)
            store.faults.append(fault)
            with pytest.raises(StoreUnavailable, match="does not serve ranges as gs:// does"):
                file.read()


def test_every_request_for_an_open_file_is_for_the_generation_it_was_opened_at(store: FaultyGcs) -> None:
    read_by(store).cat_file("bkt/a/1")
    gets = [line for line in store.asked if "alt=media" in line]
    assert len(gets) > 3
    assert all("ifGenerationMatch=" in line for line in gets[1:])


# -- replaced while it is read ---------------------------------------------------------------------------


@pytest.mark.parametrize("keeps_versions", [False, True])
def test_a_replaced_object_is_an_error_even_where_its_old_version_is_kept(keeps_versions: bool) -> None:
    with FaultyGcs(keeps_versions=keeps_versions).serving() as store:
        store.put("a", CONTENT)
        with read_by(store, read_ahead="none").open("bkt/a") as file:
            assert file.read(300_000) == CONTENT[:300_000]
            store.put("a", OTHER)
            with pytest.raises(ObjectChanged, match=r"gs://bkt/a was replaced or removed while it was read\. Open it"):
                file.read()


def test_by_choice_the_old_version_is_read_to_its_end_where_the_store_keeps_it() -> None:
    with FaultyGcs(keeps_versions=True).serving() as store:
        store.put("a", CONTENT)
        fs = read_by(store, read_ahead="none", when_replaced="old version", freshness_s=0.0)
        with fs.open("bkt/a") as file:
            assert file.read(300_000) == CONTENT[:300_000]
            store.put("a", OTHER)
            assert file.read() == CONTENT[300_000:]
        assert fs.cat_file("bkt/a") == OTHER


def test_an_old_version_that_was_not_kept_is_said_to_be_gone(store: FaultyGcs) -> None:
    with read_by(store, read_ahead="none", when_replaced="old version").open("bkt/a/1") as file:
        file.read(300_000)
        store.put("a/1", OTHER)
        with pytest.raises(ObjectChanged, match="the store keeps no older version of it"):
            file.read()


# -- credentials -----------------------------------------------------------------------------------------


def credentials(token: str, *, valid_for_s: float, newer: str | None) -> Any:
    """As google-auth holds them; `newer` is what they are renewed to, None: they can't be."""
    from google.oauth2.credentials import Credentials

    now = datetime.utcnow()  # noqa: DTZ003 - google-auth wants no time zone

    def refresh(request: Any, scopes: Any) -> tuple[str, datetime]:
        return newer or "", now + timedelta(hours=1)

    expiry = now + timedelta(seconds=valid_for_s)
    return Credentials(token, expiry=expiry, refresh_handler=None if newer is None else refresh)


@pytest.mark.parametrize("valid_for_s", [-10.0, 60.0, 3600.0], ids=["over", "soon over", "revoked"])
def test_a_token_is_renewed_in_time_and_when_it_is_refused(store: FaultyGcs, valid_for_s: float) -> None:
    store.token = "new-token"
    fs = read_by(store, token=credentials("old-token", valid_for_s=valid_for_s, newer="new-token"))
    assert fs.cat_file("bkt/a/1") == CONTENT


def test_credentials_that_cant_be_renewed_are_said(store: FaultyGcs) -> None:
    store.token = "new-token"
    fs = read_by(store, token=credentials("old-token", valid_for_s=-10.0, newer=None))
    with pytest.raises(PermissionError, match=r"gs:// can't be renewed: .*Log in again, or name others"):
        fs.cat_file("bkt/a/1")


def test_a_refusal_says_as_whom_it_was_asked(store: FaultyGcs) -> None:
    store.token = "new-token"
    said = r"gs://bkt/a/1 may not be read: status 401 \(Invalid Credentials\)\. No credentials were found"
    with pytest.raises(PermissionError, match=said):
        read_by(store).cat_file("bkt/a/1")
    store.token = ""
    store.faults.append("403")
    with pytest.raises(PermissionError, match=r"status 403 \(Said\)\. Check the credentials, and what they allow"):
        read_by(store, token=credentials("t", valid_for_s=3600.0, newer=None)).cat_file("bkt/a/1")


def test_no_token_shows(store: FaultyGcs, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="holdshort")
    store.faults.extend(["503"] * 6)
    fs = read_by(store, token=credentials("hush", valid_for_s=3600.0, newer=None))
    with pytest.raises(StoreUnavailable) as caught:
        fs.cat_file("bkt/a/1")
    assert "hush" not in str(caught.value) + caplog.text + repr(fs)


# -- what is left to gcsfs -------------------------------------------------------------------------------


def test_what_gcsfs_was_told_that_plain_requests_dont_do_is_left_to_it(store: FaultyGcs) -> None:
    plain = fsspec.filesystem("gs", **store.options)
    assert DirectGcs.suits(plain)
    assert not DirectGcs.suits(fsspec.filesystem("gs", session_kwargs={"trust_env": True}, **store.options))
    assert "userProject=me" in DirectGcs(
        fsspec.filesystem("gs", requester_pays="me", **store.options)
    ).address("bkt/a", None).target  # fmt: skip
    aware = DirectGcs(fsspec.filesystem("gs", version_aware=True, **store.options))
    with pytest.raises(NotByHttp):
        aware.address("bkt/a#1760000000000001", None)


def test_a_generation_that_the_path_names_is_read(store: FaultyGcs) -> None:
    store.keeps_versions = True
    generation = fsspec.filesystem("gs", **store.options).info("bkt/a/1")["generation"]
    store.put("a/1", OTHER)
    fs = read_by(store, options={"version_aware": True})
    assert fs.cat_file(f"bkt/a/1#{generation}") == CONTENT
    assert fs.cat_file("bkt/a/1") == OTHER


_WITH_GRPC = """
import sys, fsspec
from holdshort.storage.filesystem import TrainingFileSystem
from holdshort.storage.reading.direct_gcs import DirectGcs
from holdshort.storage.reading.http_origin import NotByHttp

options = {"token": "anon", "endpoint_url": sys.argv[1], "skip_instance_cache": True}
fs = fsspec.filesystem("gs", **options)
assert hasattr(fs, "_is_zonal_bucket"), "gcsfs would use gRPC"
if sys.argv[2] == "region":
    read = TrainingFileSystem(target_protocol="gs", target_options=options)
    print(len(read.cat_file("bkt/a/1")))
    with read.open("bkt/a/1") as file:
        print(len(file.read()))
    try:
        read.open("bkt/a")
    except IsADirectoryError:
        print("a folder")
else:
    try:
        DirectGcs(fs).address("bkt/a/1", None)
    except NotByHttp:
        print("left to gcsfs")
"""


@pytest.mark.parametrize("location", ["region", "zone"])
def test_reading_asks_nothing_by_grpc_but_for_zonal_buckets(store: FaultyGcs, location: str) -> None:
    # The server here knows no gRPC: gcsfs's own question would take a minute.
    store.is_zonal = location == "zone"
    environment = {name: value for name, value in os.environ.items() if name != "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"}
    child = subprocess.run(
        [sys.executable, "-c", _WITH_GRPC, store.endpoint, location],
        env=environment, capture_output=True, text=True, timeout=40,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    size = str(len(CONTENT))
    assert child.stdout.split("\n")[:-1] == ([size, size, "a folder"] if location == "region" else ["left to gcsfs"])
