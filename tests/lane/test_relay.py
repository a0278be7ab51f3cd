"""A host's relay: what workers read while it starts, dies and is replaced."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from holdshort.jobs import Settings
from holdshort.storage.errors import LaneError
from holdshort.workers.lane.place import LanePlace
from holdshort.workers.lane.reader import LaneReader
from holdshort.workers.lane.relay import Relay, relay_is_there
from holdshort.workers.lane.relay_process import RelayProcess
from holdshort.workers.lane.verdict import BEAT_S, MISSED_BEATS
from support.brokers import Broker
from support.holdshort import settings_for
from support.lane_hosts import Host, LaneProcess, Samples
from support.waiting import eventually


def relays_of(host: Host) -> list[int]:
    """The processes whose maps say that they are the relay."""
    return [state.pid for state in host.reader().sources() if state.name == "relay"]


def test_a_relay_that_starts_while_a_lane_is_held_never_shows_it_clear(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    gateway = here.source()
    gateway.say("hold live")
    samples = Samples(there.reader())
    there.relay()
    there.until(lambda r: r.reason == "live")
    gateway.say("clear 1.0")
    there.until(lambda r: r.signal == "clear")
    signals = [reading.signal for _, reading in samples.stop()]
    # Clear before there is a relay, held from its first moment until the source itself is clear.
    assert "".join(s[0] for s in signals).strip("c") == "h" * signals.count("hold")


def test_a_relay_holds_until_the_broker_answers(
    make_host: Callable[[str, Settings], Host], tmp_path: Path, redis_broker: Broker
) -> None:
    there = make_host("b", settings_for(tmp_path, redis_broker.url))
    redis_broker.kill()
    try:
        relay = there.relay(ready=False)
        reading = there.until(lambda r: r.signal == "hold")
        assert (reading.source, reading.reason) == ("relay", "asking other hosts for their lanes")
        eventually(lambda: "does not answer" in relay.text())
        assert there.reader().reading().signal == "hold"
    finally:
        redis_broker.start()
    there.until(lambda r: r.signal == "clear")
    assert relay.text().count("does not answer") == 1


def test_a_relay_that_was_heard_does_not_hold_for_a_broker_that_is_away_but_until_it_hears_again(
    make_host: Callable[[str, Settings], Host], tmp_path: Path, redis_broker: Broker
) -> None:
    there = make_host("b", settings_for(tmp_path, redis_broker.url))
    relay = there.relay()
    samples = Samples(there.reader())
    redis_broker.kill()
    try:
        eventually(lambda: "does not answer" in relay.text())
        assert there.reader().reading().signal == "clear"
    finally:
        redis_broker.start()
    eventually(lambda: "hears the lanes of other hosts again" in relay.text())
    there.until(lambda r: r.signal == "clear")
    assert [reading.signal for _, reading in samples.stop()] == ["clear", "hold", "clear"]


def test_workers_hold_while_their_relay_is_dead(redis_hosts: tuple[Host, Host]) -> None:
    here, there = redis_hosts
    relay = there.relay()
    here.source()
    relay.kill()
    assert there.until(lambda r: r.is_lost).source == "relay"
    there.relay()
    assert there.until(lambda r: r.signal == "clear").source != "relay"


def test_another_relay_takes_over_from_a_killed_one_without_letting_go_of_a_hold(hosts: tuple[Host, Host]) -> None:
    _take_over(*hosts, lambda relay: relay.kill())


def test_another_relay_takes_over_from_one_that_leaves(redis_hosts: tuple[Host, Host]) -> None:
    _take_over(*redis_hosts, lambda relay: relay.quit())


def test_a_relay_that_leaves_to_another_one_beats_until_its_process_ends(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, f"embedded://{tmp_path}/broker.db")
    place = LanePlace.of(settings)
    relay = Relay(settings, place)
    try:
        relay.leave(has_successor=True)
        left = time.monotonic()
        eventually(lambda: time.monotonic() > left + 1.5 * MISSED_BEATS * BEAT_S, what="one that is silent is lost")
        reading = LaneReader(place, "embed", signal_loss_timeout_s=60.0).reading()
        assert reading.signal == "hold"
        assert not reading.is_lost
    finally:
        relay.leave(has_successor=False)


def test_a_signal_to_all_processes_of_a_service_does_not_end_the_relay_before_its_worker(
    redis_hosts: tuple[Host, Host],
) -> None:
    here, there = redis_hosts
    relay = there.relay()
    gateway = here.source()
    relay.send(signal.SIGTERM)
    relay.send(signal.SIGINT)
    gateway.say("hold live")
    there.until(lambda r: r.reason == "live")
    relay.quit()
    assert there.reader().sources() == []


def test_the_last_relay_of_a_host_leaves_nothing_behind(redis_hosts: tuple[Host, Host]) -> None:
    here, there = redis_hosts
    relay = there.relay()
    here.source().say("hold live")
    there.until(lambda r: r.reason == "live")
    relay.quit()
    assert there.place.pool("embed").maps() == []
    assert not relay_is_there(there.settings)


def test_a_relay_that_was_stopped_for_long_asks_anew(
    make_host: Callable[[str, Settings], Host], tmp_path: Path, server: Broker
) -> None:
    here, there = (make_host(name, settings_for(tmp_path, server.url)) for name in "ab")
    relay = there.relay()
    relay.send(signal.SIGSTOP)
    there.until(lambda r: r.is_lost)
    here.source().say("hold live")
    stopped = time.monotonic()
    eventually(lambda: time.monotonic() > stopped + 2.1, what="so long that what was sent has expired")
    samples = Samples(there.reader())
    relay.send(signal.SIGCONT)
    there.until(lambda r: r.reason == "live")
    assert {reading.signal for _, reading in samples.stop()} == {"hold"}


def test_a_removed_map_is_made_again(redis_hosts: tuple[Host, Host]) -> None:
    here, there = redis_hosts
    there.relay()
    here.source().say("hold live")
    there.until(lambda r: r.reason == "live")
    for path in there.place.pool("embed").maps():
        path.unlink()
    there.until(lambda r: r.reason == "live" and len(there.place.pool("embed").maps()) == 2)


def test_a_relay_that_waits_for_its_turn_has_not_loaded_a_broker_client() -> None:
    program = "import sys, holdshort.cli.relay, holdshort.workers.lane.relay as _; sys.exit('kombu' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_workers_relay_is_started_again_when_it_dies_and_leaves_with_the_worker(
    make_host: Callable[[str, Settings], Host], tmp_path: Path, redis_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = make_host("b", settings_for(tmp_path, redis_broker.url))
    for name, value in there.environment().items():
        monkeypatch.setenv(name, value)
    process = RelayProcess(there.settings)
    process.start()
    try:
        process.wait()
        (first,) = relays_of(there)
        there.until(lambda r: r.source == "relay" and r.signal == "clear")
        subprocess.run(["kill", "-9", str(first)], check=True)
        there.until(lambda r: r.is_lost or r.signal == "hold")
        there.until(lambda r: r.signal == "clear")
        (second,) = relays_of(there)
        assert second != first
    finally:
        process.stop()
    assert relays_of(there) == []


def test_a_worker_is_told_when_no_relay_has_started(
    make_host: Callable[[str, Settings], Host], tmp_path: Path, redis_broker: Broker
) -> None:
    host = make_host("b", settings_for(tmp_path, redis_broker.url))
    with pytest.raises(LaneError, match="No lane relay has started"):
        RelayProcess(host.settings).wait(timeout_s=0.1)


def _take_over(here: Host, there: Host, end: Callable[[LaneProcess], None]) -> None:
    relay = there.relay()
    standby = there.relay(ready=False)
    gateway = here.source()
    gateway.say("hold live")
    there.until(lambda r: r.reason == "live")
    eventually(lambda: _waits(standby.pid), what="the second relay waits")
    reader = there.reader()
    samples = Samples(reader)
    end(relay)
    eventually(lambda: relays_of(there) == [standby.pid])
    there.until(lambda r: r.reason == "live" and not r.is_lost)
    gateway.say("hold still live")
    there.until(lambda r: r.reason == "still live")
    seen = samples.stop()
    assert {reading.signal for _, reading in seen} == {"hold"}
    assert reader.losses == 0
    gateway.say("clear 1.0")
    there.until(lambda r: r.signal == "clear")


def _waits(pid: int) -> bool:
    """Whether a process is blocked in a file lock, which the kernel lists with an arrow."""
    locks = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and f" {pid} " in line for line in locks)
