"""What a user gets wrong, and a store on a bad day: each said with what, where and what to do.

More of it stands with what it concerns: reads past the end, folders and replaced objects in test_reading, the cache's
folder in test_caching, what a scan meets in test_scanning.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from holdshort.storage.errors import SettingsError, StoreRefused, StoreUnavailable
from holdshort.storage.filesystem import TrainingFileSystem
from holdshort.storage.opening import open_store
from holdshort.storage.scanning import scan
from support.commands import Commands
from support.faulty_gcs import FaultyGcs
from support.ports import free_ports
from support.servers import SeaweedServer

MIB = 2**20
CONTENT = random.Random(13).randbytes(3 * MIB)


@pytest.fixture
def gcs() -> Iterator[FaultyGcs]:
    pytest.importorskip("gcsfs")
    with FaultyGcs().serving() as serving:
        yield serving


def read_by(protocol: str, options: dict[str, Any], **values: Any) -> Any:
    return TrainingFileSystem(target_protocol=protocol, target_options=options, **{"part_bytes": MIB, **values})


# -- a backend that is not installed -----------------------------------------------------------------------


@pytest.fixture
def without_backends(tmp_path: Path) -> dict[str, str]:
    """The environment of a process in which neither s3fs nor gcsfs can be imported."""
    for module in ("s3fs", "gcsfs"):
        text = f"raise ModuleNotFoundError({f'No module named {module!r}'!r}, name={module!r})\n"
        (tmp_path / f"{module}.py").write_text(text)
    return {"PYTHONPATH": str(tmp_path)}


_ASK = """
import sys, fsspec
from holdshort.storage.filesystem import TrainingFileSystem
from holdshort.storage.opening import open_store
from holdshort.storage.scanning import scan
from holdshort.storage.sources import source_of

protocol = sys.argv[1]
url = f"{protocol}://bucket/key"
for act in (
    lambda: TrainingFileSystem(target_protocol=protocol), lambda: open_store(url), lambda: scan(f"training::{url}"),
    lambda: source_of(url), lambda: fsspec.open(f"training::{url}"),
):
    try:
        act()
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.mark.parametrize(("protocol", "module", "extra"), [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs")])
def test_a_backend_that_is_not_installed_is_named_with_its_extra(
    without_backends: dict[str, str], protocol: str, module: str, extra: str
) -> None:
    child = subprocess.run(
        [sys.executable, "-c", _ASK, protocol],
        env={**os.environ, **without_backends}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    *ours, fsspecs = child.stdout.splitlines()
    assert len(ours) == 4
    for line in ours:
        assert line.startswith("MissingExtra ")
        assert f"needs the Python module '{module}', which is not installed" in line
        assert line.endswith(f"Install it with: pip install 'holdshort[{extra}]'")
    # Of a chained URL fsspec looks for the last part first, before anything of ours is asked.
    assert fsspecs.startswith("ImportError")
    assert module in fsspecs


def test_the_command_names_it_too(without_backends: dict[str, str], tmp_path: Path) -> None:
    run = Commands(tmp_path, None)
    ran = run("profile", "explain", "training::s3://bucket/data", "--scan", code=7, **without_backends)
    assert "pip install 'holdshort[s3]'" in ran.err


# -- credentials -----------------------------------------------------------------------------------------


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user with no credentials anywhere."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_")) and name != "AWS_CA_BUNDLE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_GCE_CHECK", "true")


@pytest.mark.usefixtures("nobody")
def test_missing_credentials_are_said_to_be_missing(s3_server: SeaweedServer, gcs: FaultyGcs, tmp_path: Path) -> None:
    s3 = {"endpoint_url": s3_server.endpoint, "client_kwargs": {"region_name": "us-east-1"}}
    with pytest.raises(PermissionError, match=r"no credentials for it .*AWS_ACCESS_KEY_ID .*anon=True"):
        read_by("s3", s3).open("holdshort/a.bin")
    with pytest.raises(SettingsError, match=r"no credentials for the store s3://holdshort/x .*store_options"):
        open_store("s3://holdshort/x", storage_options=s3)
    with pytest.raises(SettingsError, match=r"no credentials for s3://holdshort/x"):
        scan("s3://holdshort/x", storage_options=s3, folder=tmp_path)
    gcs.token = "somebody"
    gs = {"endpoint_url": gcs.endpoint, "project": "none"}
    with pytest.raises(PermissionError, match=r"No credentials were found, .*GOOGLE_APPLICATION_CREDENTIALS"):
        read_by("gs", gs).open("bkt/a.bin")
    with pytest.raises(SettingsError, match=r"no credentials for the store gs://bkt/x .*store_options"):
        open_store("gs://bkt/x", storage_options=gs)


# -- a bucket that is not there, a store that does not answer --------------------------------------------------


def test_a_bucket_that_is_not_there_is_named(s3_server: SeaweedServer, gcs: FaultyGcs) -> None:
    for protocol, options in (("s3", s3_server.options), ("gs", gcs.options)):
        with pytest.raises(
            FileNotFoundError, match=f"{protocol}://no-such-bucket/a.* there is no bucket 'no-such-buck"
        ):
            read_by(protocol, options).open("no-such-bucket/a")
    with pytest.raises(StoreRefused, match=r"no bucket for the store gs://no-such-bucket/x.*HOLDSHORT_STORE"):
        open_store("gs://no-such-bucket/x", storage_options=gcs.options)


@pytest.mark.parametrize("protocol", ["s3", "gs"])
def test_an_endpoint_that_does_not_answer_is_said_with_what_to_check(protocol: str) -> None:
    endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
    options = {"endpoint_url": endpoint, **({"key": "k", "secret": "s"} if protocol == "s3" else {"token": "anon"})}
    said = f"{protocol}://bucket/a can't be read, after 6 tries: .*refused.*Check the endpoint and the network"
    with pytest.raises(StoreUnavailable, match=said):
        read_by(protocol, options).open("bucket/a")


def test_an_object_of_no_known_size_is_refused(gcs: FaultyGcs) -> None:
    gcs.put("a", CONTENT)
    gcs.faults.append("unpacked")
    with pytest.raises(StoreUnavailable, match=r"gs://bkt/a has no known size.*open it without a profile"):
        read_by("gs", gcs.options, freshness_s=0.0).open("bkt/a")


# -- the old version by choice -----------------------------------------------------------------------------


def test_by_choice_the_old_version_is_read_from_a_bucket_with_versions(
    s3_server: SeaweedServer, tmp_path: Path
) -> None:
    client = s3_server.client()
    client.create_bucket(Bucket="versions")
    client.put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    client.put_object(Bucket="versions", Key="a", Body=CONTENT)
    other = bytes(reversed(CONTENT))
    options = {**s3_server.options, "use_listings_cache": False}
    fs = read_by("s3", options, read_ahead="none", when_replaced="old version", freshness_s=0.0)
    with fs.open("versions/a") as file:
        assert file.read(300_000) == CONTENT[:300_000]
        client.put_object(Bucket="versions", Key="a", Body=other)
        assert file.read() == CONTENT[300_000:]
    assert fs.cat_file("versions/a") == other
    client.close()


def test_where_no_old_versions_are_kept_that_choice_is_refused(
    s3_server: SeaweedServer, s3_url: str, tmp_path: Path
) -> None:
    Path(tmp_path, "a").write_bytes(CONTENT)
    local = TrainingFileSystem(fs=fsspec.filesystem("file"), when_replaced="old version", skip_instance_cache=True)
    with pytest.raises(SettingsError, match=r"/a can't be read with when_replaced = 'old version'.*versioning"):
        local.open(str(tmp_path / "a"))
    fs = read_by("s3", s3_server.options, when_replaced="old version")
    path = f"{s3_url.removeprefix('s3://')}/a"
    fs.pipe_file(path, CONTENT)
    with pytest.raises(SettingsError, match=r"/a can't be read with when_replaced = 'old version'"):
        fs.cat_file(path)
    with pytest.raises(SettingsError, match="when_replaced is 'no'; it has to be one of error, old version"):
        read_by("s3", s3_server.options, when_replaced="no")
