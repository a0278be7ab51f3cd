"""Live requests as a source."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from holdshort.workers import lane
from holdshort.workers.lane.linger import Linger
from holdshort.workers.lane.live import Live
from holdshort.workers.lane.opening import open_sources
from holdshort.workers.lane.place import LanePlace
from holdshort.workers.lane.reader import LaneReader
from holdshort.workers.lane.source import Source
from support.holdshort import settings_for
from support.waiting import eventually


@pytest.fixture
def place(tmp_path: Path) -> LanePlace:
    return LanePlace(tmp_path / "lane")


@pytest.fixture
def reader(place: LanePlace) -> LaneReader:
    return LaneReader(place, "embed")


@pytest.fixture
def live(place: LanePlace) -> Live:
    return Live([Source(place, pool="embed", name="chat")])


def test_the_first_request_raises_and_the_last_one_lowers(live: Live, reader: LaneReader) -> None:
    with live:
        assert reader.reading().signal == "hold"
        with pytest.raises(ValueError, match="broken"), live:
            raise ValueError("broken")
        assert (reader.reading().signal, live.in_flight) == ("hold", 1)
    assert (reader.reading().signal, live.in_flight) == ("clear", 0)
    live.close()


def test_requests_of_many_threads_and_tasks_are_counted_right(live: Live, reader: LaneReader) -> None:
    wrong: list[str] = []

    def thread() -> None:
        for _ in range(300):
            with live:
                if reader.reading().signal != "hold":
                    wrong.append("clear in a thread")

    async def tasks() -> None:
        async def task() -> None:
            for _ in range(20):
                async with live:
                    await asyncio.sleep(0)
                    if reader.reading().signal != "hold":
                        wrong.append("clear in a task")

        await asyncio.gather(*(task() for _ in range(32)))

    threads = [threading.Thread(target=thread) for _ in range(16)]
    for one in threads:
        one.start()
    asyncio.run(tasks())
    for one in threads:
        one.join()
    assert wrong == []
    assert (live.in_flight, reader.reading().signal) == (0, "clear")
    assert live.raised_s > 0
    live.close()


def test_an_end_too_many_takes_no_protection_from_the_next_request(live: Live, reader: LaneReader) -> None:
    live.begin()
    live.end()
    live.end()
    assert (live.in_flight, reader.reading().signal) == (0, "clear")
    with live:
        assert (live.in_flight, reader.reading().signal) == (1, "hold")
    live.close()


def test_headroom_while_live_is_no_hold_and_ends_with_the_last_request(live: Live, reader: LaneReader) -> None:
    with live:
        live.leave(0.25, "p95 is 80 ms of the promised 100")
        reading = reader.reading()
        assert (reading.signal, reading.headroom) == ("clear", 0.25)
        assert "80 ms" in reading.reason
        live.headroom = 0.0
        assert reader.reading().signal == "hold"
    assert reader.reading().headroom == 1.0
    live.close()


def test_a_conversation_that_comes_back_soon_is_waited_for_and_the_wait_ends_by_itself(
    place: LanePlace, reader: LaneReader
) -> None:
    now = [100.0]
    live = Live([Source(place, pool="embed", name="chat")], Linger(most_s=0.25), clock=lambda: now[0])
    for _ in range(10):
        live.begin("conversation")
        now[0] += 1.0
        live.end("conversation")
        now[0] += 0.008
    assert reader.reading().signal == "hold"
    assert "expected" in reader.reading().reason
    eventually(lambda: reader.reading().signal == "clear", timeout=2, every=0.001, what="the wait ends")
    live.close()


def test_lane_live_finds_its_pool_and_folder_in_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDSHORT_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("HOLDSHORT_LANE_FOLDER", str(tmp_path / "lane"))
    settings = settings_for(tmp_path, f"embedded://{tmp_path}/broker.db")
    reader = LaneReader(LanePlace.of(settings), "embed")
    with lane.live("test-chat"), lane.live("test-chat"):
        assert (reader.reading().signal, reader.reading().source) == ("hold", "test-chat")
    assert reader.reading().signal == "clear"
    assert lane.live("test-chat") is lane.live("test-chat")
    lane.live("test-chat").close()


def test_a_device_or_pool_that_is_not_there_is_refused_with_what_there_is(tmp_path: Path) -> None:
    from holdshort.storage.errors import SettingsError, UnknownPool

    settings = settings_for(tmp_path, f"embedded://{tmp_path}/broker.db")
    with pytest.raises(UnknownPool, match="did you mean 'embed'"):
        open_sources(settings, "chat", pools=["embd"])
    with pytest.raises(SettingsError, match="none of its own"):
        open_sources(settings, "chat", pools=["embed"], device="gpu0")
