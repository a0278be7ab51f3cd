"""Who waits for the lane is woken by a change of it, whichever process made it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from holdshort.workers.lane import bell as bells
from holdshort.workers.lane.place import LanePlace
from holdshort.workers.lane.reader import LaneReader
from holdshort.workers.lane.source import Source
from support.waiting import eventually

FOR_EVER_S = 600.0

WAITS = """
import sys
from pathlib import Path
from holdshort.workers.lane.place import LanePlace
from holdshort.workers.lane.reader import LaneReader
reader = LaneReader(LanePlace(Path(sys.argv[1])), "embed")
rung = reader.rung
print("waits", flush=True)
reader.wait(rung, 600.0)
print(reader.reading().signal, flush=True)
"""


@pytest.fixture
def place(tmp_path: Path) -> LanePlace:
    return LanePlace(tmp_path / "lane")


@pytest.fixture
def reader(place: LanePlace) -> LaneReader:
    return LaneReader(place, "embed")


@pytest.fixture(params=["futex", "without"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the system's help, and on a system that has none."""
    if request.param == "without":
        monkeypatch.setattr(bells, "_wait", lambda: None)
        monkeypatch.setattr(bells, "_wake", lambda: None)


def returns_after(wait: Callable[[], None], act: Callable[[], None]) -> bool:
    """Whether the wait, which takes for ever otherwise, ends by this."""
    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    act()
    waiting.join(timeout=30)
    return not waiting.is_alive()


@pytest.mark.usefixtures("system")
def test_each_change_of_a_source_wakes_who_waits(place: LanePlace, reader: LaneReader) -> None:
    source = Source(place, pool="embed", name="chat")

    def hold_for_a_while() -> None:
        source.hold("for a while", for_s=60.0)

    for change in (lambda: source.hold("live"), lambda: source.clear(headroom=0.5), hold_for_a_while, source.close):
        rung = reader.rung
        assert returns_after(lambda rung=rung: reader.wait(rung, FOR_EVER_S), change)


@pytest.mark.usefixtures("system")
def test_a_source_that_comes_wakes_who_waits(place: LanePlace, reader: LaneReader) -> None:
    rung = reader.rung
    made: list[Source] = []
    assert returns_after(
        lambda: reader.wait(rung, FOR_EVER_S), lambda: made.append(Source(place, pool="embed", name="chat"))
    )
    made[0].close()


@pytest.mark.usefixtures("system")
def test_a_change_before_the_wait_began_is_not_missed(place: LanePlace, reader: LaneReader) -> None:
    source = Source(place, pool="embed", name="chat")
    rung = reader.rung
    source.hold("live")
    assert returns_after(lambda: reader.wait(rung, FOR_EVER_S), lambda: None)
    source.close()


def test_a_beat_and_figures_wake_nobody(place: LanePlace, reader: LaneReader) -> None:
    source = Source(place, pool="embed", name="chat")
    rung = reader.rung
    source.beat()
    source.tell(source.word.figures)
    assert reader.rung == rung
    source.close()


def test_another_process_is_woken(place: LanePlace) -> None:
    source = Source(place, pool="embed", name="chat")
    other = subprocess.Popen(
        [sys.executable, "-c", WAITS, str(place.folder)], stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "waits\n"
        source.hold("live")
        assert other.communicate(timeout=30)[0] == "hold\n"
    finally:
        other.kill()
        other.wait()
        source.close()


def test_the_bell_is_found_again_after_the_folder_was_removed(place: LanePlace, reader: LaneReader) -> None:
    source = Source(place, pool="embed", name="chat")
    shutil.rmtree(place.folder / "embed")
    before = reader.rung
    source.check()
    eventually(lambda: reader.reading().signal == "clear" and reader.rung != before)
    rung = reader.rung
    assert returns_after(lambda: reader.wait(rung, FOR_EVER_S), lambda: source.hold("live"))
    assert reader.reading().signal == "hold"
    source.close()
