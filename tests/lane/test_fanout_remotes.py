"""Which words of other hosts count, and for how long they are kept."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from holdshort.workers.lane import wire
from holdshort.workers.lane.place import LanePlace
from holdshort.workers.lane.reader import LaneReader
from holdshort.workers.lane.reading import Reading
from holdshort.workers.lane.record import State
from holdshort.workers.lane.remotes import MOST, Remotes

HERE, THERE = "0" * 16, "1" * 16


class Receiver:
    """A host that is told words directly."""

    def __init__(self, folder: Path) -> None:
        self.place = LanePlace(folder)
        self.remotes = Remotes(self.place, {"embed": 60.0}, HERE)
        self._reader = LaneReader(self.place, "embed")

    def hear(
        self, state: State, *, seq: int, opened: int = 1, reason: str = "", host: str = THERE, pool: str = "embed",
        slot: str = "gateway.1",
    ) -> None:  # fmt: skip
        word = wire.SaidWord(
            pool=pool, slot=slot, opened=opened, source="gateway", state=state, headroom=float(state == "clear"),
            reason=reason, since_ago_s=0.0,
        )  # fmt: skip
        self.remotes.take_in(
            wire.Words(store="2" * 16, host=host, host_name="b", pid=1, seq=seq, beat_s=0.25, words=[word])
        )

    @property
    def reading(self) -> Reading:
        return self._reader.reading()

    @property
    def maps(self) -> list[str]:
        return [path.stem for pool in self.place.folder.iterdir() for path in self.place.pool(pool.name).maps()]


@pytest.fixture
def receiver(tmp_path: Path) -> Receiver:
    return Receiver(tmp_path / "lane")


def test_a_word_that_comes_late_is_overlooked(receiver: Receiver) -> None:
    receiver.hear("hold", seq=7, reason="live")
    receiver.hear("clear", seq=6)
    receiver.hear("clear", seq=7)
    assert receiver.reading.reason == "live"
    receiver.hear("clear", seq=8)
    assert receiver.reading.signal == "clear"


def test_a_successor_takes_the_place_of_a_source_and_its_count_begins_anew(receiver: Receiver) -> None:
    receiver.hear("clear", seq=700, opened=1)
    receiver.hear("hold", seq=1, opened=2, reason="the successor")
    receiver.hear("clear", seq=701, opened=1)
    receiver.hear("closed", seq=702, opened=1)
    assert receiver.reading.reason == "the successor"
    assert len(receiver.maps) == 1


def test_after_a_goodbye_no_late_word_brings_a_source_back(receiver: Receiver) -> None:
    receiver.hear("hold", seq=1)
    receiver.hear("closed", seq=2)
    receiver.hear("hold", seq=1)
    assert receiver.reading.signal == "clear"
    assert receiver.maps == []
    receiver.hear("hold", seq=1, opened=5, reason="a new one")
    assert receiver.reading.reason == "a new one"


def test_a_hosts_own_words_and_those_on_other_pools_are_not_kept(receiver: Receiver) -> None:
    receiver.hear("hold", seq=1, host=HERE)
    receiver.hear("hold", seq=1, pool="../elsewhere".replace("../", ""))
    assert receiver.maps == []


def test_hosts_of_the_same_name_are_kept_apart(receiver: Receiver) -> None:
    receiver.hear("hold", seq=1, reason="live")
    receiver.hear("clear", seq=9, host="3" * 16)
    assert receiver.reading.reason == "live"
    assert len(receiver.maps) == 2


def test_a_source_that_was_given_up_on_long_ago_is_removed(receiver: Receiver) -> None:
    receiver.hear("hold", seq=1)
    receiver.remotes.check(time.monotonic() + 60 + 3590)
    assert receiver.maps
    receiver.remotes.check(time.monotonic() + 60 + 3610)
    assert receiver.maps == []


def test_what_a_dead_relay_left_is_taken_over(receiver: Receiver, tmp_path: Path) -> None:
    receiver.hear("hold", seq=5, reason="live")
    (left,) = receiver.maps
    folder = receiver.place.pool("embed").folder
    content = (folder / f"{left}.lane").read_bytes()
    receiver.remotes.close()
    (folder / f"{left}.lane").write_bytes(content)  # as if its writer had died

    successor = Receiver(receiver.place.folder)
    successor.remotes.sweep()
    assert successor.maps == [left]
    successor.hear("hold", seq=6, reason="still live")
    assert successor.maps == [left]
    assert successor.reading.reason == "still live"


def test_a_source_that_cannot_be_kept_is_named_until_it_says_goodbye(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdshort.workers.lane.remotes.MOST", 1)
    assert MOST > 1
    receiver.hear("hold", seq=1)
    receiver.hear("hold", seq=2, slot="gateway.2")
    ((_, pool, slot),) = receiver.remotes.unwritten
    assert (pool, slot) == ("embed", "gateway.2")
    receiver.hear("closed", seq=3, slot="gateway.2")
    assert not receiver.remotes.unwritten
