"""Sources on one host: what workers read of them, in health and after every kind of death."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdshort.storage.errors import LaneError
from holdshort.workers.lane.place import LanePlace
from holdshort.workers.lane.reader import LaneReader, dismiss
from holdshort.workers.lane.reading import QUIET_S, Figures, is_quiet
from holdshort.workers.lane.record import SIZE, VERSION
from holdshort.workers.lane.source import Source
from support.waiting import eventually

CHILD = """
import sys, time
from pathlib import Path
from holdshort.workers.lane.place import LanePlace
from holdshort.workers.lane.source import Source
source = Source(LanePlace(Path(sys.argv[1])), pool="embed", name=sys.argv[2])
if sys.argv[3] == "hold":
    source.hold("3 live requests")
print("ready", flush=True)
sys.stdin.read()
"""

COMING_AND_GOING = """
import os, sys
from pathlib import Path
from holdshort.workers.lane.place import LanePlace
from holdshort.workers.lane.reader import LaneReader
from holdshort.workers.lane.source import Source
place = LanePlace(Path(sys.argv[1]))
reader = LaneReader(place, "embed", signal_loss_timeout_s=600.0)

def tell():
    maps = Path("/proc/self/maps").read_text().count(str(place.folder))
    print(f"{len(os.listdir('/proc/self/fd'))} descriptors, {maps} maps")

Source(place, pool="embed", name="warm").close()
reader.reading()
tell()
for number in range(50):
    source = Source(place, pool="embed", name=f"chat{number}")
    source.hold("live")
    assert reader.reading().signal == "hold"
    source.close()
    assert reader.reading().signal == "clear"
del source
tell()
"""


@pytest.fixture
def place(tmp_path: Path) -> LanePlace:
    return LanePlace(tmp_path / "lane")


@pytest.fixture
def lost() -> list[str]:
    return []


@pytest.fixture
def reader(place: LanePlace, lost: list[str]) -> LaneReader:
    return LaneReader(place, "embed", signal_loss_timeout_s=600.0, on_lost=lost.append)


@pytest.fixture
def child(place: LanePlace) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a process with a source; it ends normally when its standard input closes."""
    made: list[subprocess.Popen[bytes]] = []

    def start(state: str, name: str = "chat") -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(place.folder), name, state], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        made.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    yield start
    for process in made:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(10) == 0


def test_a_pool_that_never_had_a_source_is_clear(reader: LaneReader) -> None:
    assert (reader.reading().signal, reader.reading().headroom) == ("clear", 1.0)


def test_the_strictest_word_counts(place: LanePlace, reader: LaneReader) -> None:
    chat, other, third = (Source(place, pool="embed", name=name) for name in ("chat", "other", "third"))
    chat.clear(headroom=0.5, reason="promise kept")
    assert (reader.reading().headroom, reader.reading().source) == (0.5, "chat")
    other.clear(headroom=0.2)
    assert reader.reading().headroom == 0.2
    third.hold("a wave")
    first = reader.reading()
    assert (first.signal, first.headroom, first.reason, first.source) == ("hold", 0.0, "a wave", "third")
    chat.hold("also")
    assert reader.reading() == first, "the older hold is told"
    for source in (third, chat, other):
        source.close()
    assert (reader.reading().signal, reader.sources()) == ("clear", [])


def test_a_lane_is_clear_since_its_last_hold_ended_and_quiet_a_while_after(
    place: LanePlace, reader: LaneReader
) -> None:
    assert is_quiet(reader.reading(), time.monotonic()), "nobody ever said anything"
    chat, other = (Source(place, pool="embed", name=name) for name in ("chat", "other"))
    chat.clear(headroom=0.5)
    other.hold("a wave")
    assert not is_quiet(reader.reading(), time.monotonic() + 60)
    ended = time.monotonic()
    other.clear()
    found = reader.reading()
    assert (found.signal, found.source, found.headroom) == ("clear", "chat", 0.5)
    assert found.since >= ended
    assert not is_quiet(found, found.since + QUIET_S / 2)
    assert is_quiet(found, found.since + QUIET_S)
    for source in (chat, other):
        source.close()


def test_a_hold_can_end_by_itself_and_a_headroom_of_nothing_is_one(place: LanePlace, reader: LaneReader) -> None:
    source = Source(place, pool="embed", name="chat")
    source.hold("lingers", for_s=0.05)
    held = reader.reading()
    assert held.signal == "hold"
    assert held.until is not None
    eventually(lambda: reader.reading().signal == "clear", timeout=2, every=0.002, what="it ends")
    assert time.monotonic() >= held.until
    source.clear(headroom=0.0, reason="nothing left")
    assert reader.reading().signal == "hold"
    source.close()


def test_how_live_traffic_fares_is_told(place: LanePlace, reader: LaneReader) -> None:
    source = Source(place, pool="embed", name="chat")
    source.tell(Figures(3, 0.1, 0.2, None, 0.01))
    (state,) = reader.sources()
    assert state.figures == Figures(3, 0.1, 0.2, None, 0.01)
    assert (state.pid, state.heard_s < 1.0) == (os.getpid(), True)
    source.close()


def test_a_source_of_one_device_counts_for_its_worker_only(place: LanePlace) -> None:
    whole, first, second = (LaneReader(place, "embed", device=device) for device in ("", "gpu0", "gpu1"))
    source = Source(place, pool="embed", name="chat", device="gpu1")
    source.hold("live there")
    assert [r.reading().signal for r in (whole, first, second)] == ["hold", "clear", "hold"]
    source.close()


@pytest.mark.parametrize("state", ["hold", "clear"])
def test_a_source_that_is_killed_is_a_hold_counted_once_and_ends_when_it_returns(
    child: Callable[..., subprocess.Popen[bytes]], reader: LaneReader, lost: list[str], state: str
) -> None:
    process = child(state)
    assert reader.reading().signal == state
    process.kill()
    process.wait()
    eventually(lambda: reader.reading().is_lost, timeout=5, what="the silence is noticed")
    for _ in range(100):
        assert reader.reading().signal == "hold"
    assert lost == ["chat"]
    assert reader.losses == 1
    child("clear")
    assert (reader.reading().signal, len(reader.sources())) == ("clear", 1)


def test_a_lost_source_is_given_up_on_after_the_time_out(
    child: Callable[..., subprocess.Popen[bytes]], place: LanePlace, lost: list[str]
) -> None:
    reader = LaneReader(place, "embed", signal_loss_timeout_s=0.5, on_lost=lost.append)
    process = child("hold")
    process.kill()
    process.wait()
    eventually(lambda: reader.reading().is_lost, timeout=5, what="the silence is noticed")
    eventually(lambda: reader.reading().signal == "clear", timeout=5, what="it is given up on")
    assert lost == ["chat"]


def test_a_lost_source_can_be_dismissed_until_it_beats_again(
    child: Callable[..., subprocess.Popen[bytes]], place: LanePlace, reader: LaneReader
) -> None:
    process = child("hold")
    assert dismiss(place, "embed", "chat").alive == 1
    process.send_signal(signal.SIGSTOP)
    eventually(lambda: reader.reading().is_lost, timeout=5, what="the silence is noticed")
    assert dismiss(place, "embed", "another").dismissed == 0
    assert dismiss(place, "embed", "chat").dismissed == 1
    assert reader.reading().signal == "clear"
    process.send_signal(signal.SIGCONT)
    eventually(lambda: reader.reading().signal == "hold", timeout=5, what="it counts again")
    assert not reader.reading().is_lost


def test_a_process_that_ends_normally_says_goodbye(
    child: Callable[..., subprocess.Popen[bytes]], reader: LaneReader, lost: list[str]
) -> None:
    process = child("hold")
    assert reader.reading().signal == "hold"
    _end(process)
    assert (reader.reading().signal, reader.sources(), lost) == ("clear", [], [])


def test_of_two_with_one_name_each_counts_and_only_a_new_one_is_a_return(
    child: Callable[..., subprocess.Popen[bytes]], reader: LaneReader
) -> None:
    first, second = child("clear"), child("clear")
    assert len(reader.sources()) == 2
    first.kill()
    first.wait()
    eventually(lambda: reader.reading().is_lost, timeout=5, what="the silence is noticed")
    third = child("clear")
    assert reader.reading().signal == "clear"
    _end(second)
    _end(third)
    assert reader.sources() == []


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda raw: raw[:8] + (VERSION + 1).to_bytes(4, "little") + raw[12:], f"version {VERSION + 1}"),
        (lambda raw: b"NOT OURS" + raw[8:], "no lane map"),
        (lambda raw: raw[:100], "100 bytes"),
        (lambda raw: raw[:512] + bytes(SIZE - 512), "damaged"),
    ],
)
def test_a_map_that_cant_be_read_is_a_hold_with_the_reason_until_it_is_dismissed(
    child: Callable[..., subprocess.Popen[bytes]], place: LanePlace, damage: Callable[[bytes], bytes], part: str
) -> None:
    process = child("clear")
    (path,) = place.pool("embed").maps()
    process.kill()
    process.wait()
    path.write_bytes(damage(path.read_bytes()))
    reader = LaneReader(place, "embed", signal_loss_timeout_s=600.0, on_lost=lambda name: None)
    reading = reader.reading()
    assert (reading.signal, reading.is_lost) == ("hold", True)
    assert part in reading.reason
    assert dismiss(place, "embed", "chat").dismissed == 1
    assert reader.reading().signal == "clear"


def test_a_map_of_another_version_whose_owner_lives_cant_be_dismissed_or_given_up_on(place: LanePlace) -> None:
    import fcntl

    path = place.pool("embed").folder / "chat.1.lane"
    path.write_bytes(b"HOLDLANE" + (99).to_bytes(4, "little") + bytes(SIZE - 12))
    with path.open("rb") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        reader = LaneReader(place, "embed", signal_loss_timeout_s=0.01, on_lost=lambda name: None)
        time_is_up = time.monotonic() + 0.05
        eventually(lambda: time.monotonic() > time_is_up, timeout=1, every=0.01, what="the time-out has passed")
        assert reader.reading().signal == "hold"
        assert dismiss(place, "embed", "chat").alive == 1
    eventually(lambda: reader.reading().signal == "clear", timeout=5, what="it is given up on once its owner is gone")


def test_a_lane_folder_that_is_removed_comes_back_by_itself(place: LanePlace, reader: LaneReader) -> None:
    source = Source(place, pool="embed", name="chat")
    source.hold("live")
    assert reader.reading().signal == "hold"
    shutil.rmtree(place.folder)
    eventually(lambda: list(place.folder.rglob("chat*.lane")), timeout=10, what="the source puts its map back")
    eventually(lambda: [s.name for s in reader.sources()] == ["chat"], timeout=10, what="the reader finds it")
    assert reader.reading().signal == "hold"
    source.clear()
    eventually(lambda: reader.reading().signal == "clear", timeout=5, what="the reader follows the new map")
    source.hold("live again")
    assert reader.reading().reason == "live again"
    source.close()


def test_a_full_ram_disk_is_told_with_the_cure_and_leaves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o700)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24k,mode=700", "tmpfs", disk], check=False).returncode:
        pytest.skip("mounting a RAM disk needs root")
    try:
        place = LanePlace(disk / "lane")
        reader = LaneReader(place, "embed")
        made: list[Source] = []
        fill = (Source(place, pool="embed", name=f"chat{number}") for number in itertools.count())
        with pytest.raises(LaneError, match=r"no space is left.*lane_folder"):
            made.extend(fill)
        assert made, "some fit"
        assert len(reader.sources()) == len(made)
        for source in made:
            source.hold("their space was really taken")
        assert reader.reading().signal == "hold"
        assert not list(disk.rglob("*.new"))
        for source in made:
            source.close()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(LaneError, match="nobody else may write to"):
        LanePlace(folder)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(LaneError, match="has to be a folder"):
        LanePlace(tmp_path / "link")


@pytest.mark.parametrize("name", ["", "a b", "../a", "x" * 64, "a/b"])
def test_names_become_parts_of_paths_and_are_checked(place: LanePlace, name: str) -> None:
    with pytest.raises(LaneError, match="letters, digits"):
        Source(place, pool="embed", name=name)


def test_ten_thousand_flips_a_second_end_in_the_last_word(place: LanePlace, reader: LaneReader) -> None:
    source = Source(place, pool="embed", name="chat")
    over = threading.Event()
    seen: set[str] = set()

    def read() -> None:
        while not over.is_set():
            seen.add(reader.reading().signal)

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(10_000):
        source.hold("a flip")
        source.clear()
    source.hold("the last one")
    over.set()
    thread.join()
    assert (reader.reading().signal, reader.reading().reason) == ("hold", "the last one")
    assert seen == {"hold", "clear"}
    source.close()


def test_reading_opens_and_lists_nothing_while_nothing_changes(place: LanePlace, reader: LaneReader) -> None:
    source = Source(place, pool="embed", name="chat")
    reader.reading()
    events: list[str] = []
    watching = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event in ("open", "os.scandir", "os.listdir", "mmap.__new__"):
            events.append(event)

    sys.addaudithook(hook)
    for _ in range(10_000):
        reader.reading()
    watching = False
    assert events == []
    source.close()


def test_maps_that_come_and_go_leave_no_descriptor_and_no_map_behind(place: LanePlace) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", COMING_AND_GOING, str(place.folder)], capture_output=True, text=True, check=True
    )
    before, after = ran.stdout.splitlines()
    assert before == after
