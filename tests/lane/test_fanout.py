"""What a source says on one host, workers of another read. Two hosts are two lane folders, on real brokers."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdshort.jobs import Settings
from holdshort.workers.lane import wire
from holdshort.workers.lane.announcer import BEAT_S
from holdshort.workers.lane.fanout import EXCHANGE, Fanout, announce_dismissal, is_on
from holdshort.workers.lane.verdict import MISSED_BEATS
from support.brokers import Broker
from support.holdshort import settings_for
from support.lane_hosts import Host
from support.ports import free_port
from support.waiting import eventually

SILENCE_S = MISSED_BEATS * BEAT_S


def sources_of(host: Host) -> list[str]:
    return [state.name for state in host.reader().sources() if state.name.startswith("gateway") and state.reading]


def said_by(host: Host, name: str) -> str:
    """The reason that the source of this name gives."""
    found = [s.reading.reason for s in host.reader().sources() if s.name.startswith(f"{name} on ") and s.reading]
    return found[0] if found else ""


def test_workers_read_what_a_source_on_another_host_says(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    there.relay()
    gateway = here.source()
    gateway.say("hold two live requests")
    reading = there.until(lambda r: r.signal == "hold")
    assert reading.reason == "two live requests"
    assert reading.source.startswith("gateway on ")
    gateway.say("clear 0.4")
    assert there.until(lambda r: r.signal == "clear").headroom == 0.4
    said_at = time.monotonic()
    gateway.say("hold-for 0.3")
    held = there.until(lambda r: r.signal == "hold")
    assert held.until is not None
    assert held.until - held.since == pytest.approx(0.3, abs=0.01)
    assert time.monotonic() < held.until <= time.monotonic() + 0.3
    there.until(lambda r: r.signal == "clear")
    # Each word crosses with its age, so that one that came late may end later than the next one says, none too early.
    assert time.monotonic() >= said_at + 0.3
    gateway.say("hold one more")
    there.until(lambda r: r.signal == "hold")
    gateway.quit()
    assert not there.until(lambda r: r.signal == "clear").is_lost
    eventually(lambda: not sources_of(there), what="the goodbye has removed the source")


def test_a_killed_source_holds_other_hosts_until_the_time_out_or_a_dismissal_or_its_return(
    hosts: tuple[Host, Host],
) -> None:
    here, there = hosts
    relays = [host.relay() for host in hosts]
    gateway = here.source()
    lost: list[str] = []
    patient, brief = there.reader(on_lost=lost.append), there.reader(timeout_s=0.5)
    eventually(lambda: sources_of(there))
    assert patient.reading().signal == "clear"

    gateway.kill()
    killed_at = time.monotonic()
    eventually(lambda: patient.reading().is_lost, every=0.005)
    assert time.monotonic() - killed_at == pytest.approx(SILENCE_S, abs=BEAT_S + 0.25)
    assert brief.reading().is_lost
    eventually(lambda: brief.reading().signal == "clear", every=0.005)
    assert time.monotonic() - killed_at < SILENCE_S + 0.5 + 0.5
    assert patient.reading().is_lost
    assert len(lost) == patient.losses == brief.losses == 1

    assert here.reader().reading().is_lost
    announce_dismissal(here.settings, "embed", "gateway")
    for host in hosts:
        host.until(lambda r: r.signal == "clear")
    eventually(lambda: all("1 dismissed" in relay.text() for relay in relays), what="each relay says so")

    here.source().say("hold back again")
    there.until(lambda r: r.reason == "back again")
    assert len(sources_of(there)) == 1  # it has taken its own place
    assert len(lost) == patient.losses == 1


def test_a_source_that_returns_ends_the_hold_for_its_loss(redis_hosts: tuple[Host, Host]) -> None:
    here, there = redis_hosts
    there.relay()
    gateway = here.source()
    eventually(lambda: sources_of(there))
    gateway.kill()
    there.until(lambda r: r.is_lost)
    here.source()
    there.until(lambda r: r.signal == "clear")
    assert len(sources_of(there)) == 1


def test_a_source_that_flaps_costs_few_messages_and_ends_as_it_says(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    there.relay()
    gateway = here.source()
    with Fanout(there.settings, hears=True) as ears:
        eventually(lambda: ears.hear(0.1))
        begun = time.monotonic()
        gateway.say("flip 10000")
        took_s = time.monotonic() - begun
        heard: list[bytes | str] = []
        while time.monotonic() < begun + took_s + 2 * BEAT_S:
            heard += ears.hear(0.05)
    said = [text for body in heard if isinstance(text := wire.decode(body), wire.Words)]
    assert said[-1].words[0].state == "hold"
    assert 5 < len(said) < 600 * (took_s + 2 * BEAT_S)
    there.until(lambda r: r.signal == "hold" and r.reason == "live", timeout=0.2)
    gateway.say("clear 1.0")
    there.until(lambda r: r.signal == "clear")


def test_words_of_other_stores_and_garbage_are_ignored(
    hosts: tuple[Host, Host], make_host: Callable[[str, Settings], Host], tmp_path: Path
) -> None:
    here, there = hosts
    relay = there.relay()
    other_store = here.settings.model_copy(update={"store": str(tmp_path / "other")})
    stranger = make_host("stranger", other_store).source("stranger")
    stranger.say("hold everything")
    with Fanout(here.settings) as fanout:
        for body in ('{"v": 1, "kind": "words"}', '{"v": 2, "kind": "words"}', "no JSON", "{" * 70_000, ""):
            fanout._producer.publish(body, content_type="application/json", content_encoding="utf-8", exchange=EXCHANGE)
    gateway = here.source()
    gateway.say("hold the real one")
    assert there.until(lambda r: r.signal == "hold").reason == "the real one"
    gateway.say("clear 1.0")
    there.until(lambda r: r.signal == "clear")
    assert not [state for state in there.reader().sources() if "stranger" in state.name]
    warnings = [line for line in relay.text().splitlines() if "can't be read" in line]
    assert len(warnings) == 1, relay.text()


def test_not_even_a_broken_envelope_ends_a_relay(redis_broker: Broker, redis_hosts: tuple[Host, Host]) -> None:
    import redis

    here, there = redis_hosts
    relay = there.relay()
    with redis.Redis.from_url(redis_broker.url) as client:
        for body in (b"\xff\xfe", b"3", b"[]", b"{}", b'{"body": "%%", "properties": {"body_encoding": "base64"}}'):
            assert client.publish(f"/0.{EXCHANGE}", body) == 1
    here.source().say("hold the real one")
    assert there.until(lambda r: r.signal == "hold").reason == "the real one"
    assert relay.pid in [int(state.pid) for state in there.reader().sources() if state.name == "relay"]


def test_a_host_does_not_repeat_its_own_sources(redis_hosts: tuple[Host, Host]) -> None:
    here, there = redis_hosts
    for host in redis_hosts:
        host.relay()
    here.source()
    eventually(lambda: sources_of(there))
    assert sources_of(here) == ["gateway"]


def test_a_forked_process_speaks_for_itself_and_its_parent_goes_on(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    there.relay()
    gateway = here.source()
    gateway.say("clear 1.0")
    eventually(lambda: sources_of(there))
    gateway.say("fork")
    assert there.until(lambda r: r.signal == "hold").reason == "from the child"
    gateway.say("hold in the parent")
    eventually(lambda: said_by(there, "gateway") == "in the parent")
    assert said_by(there, "child") == "from the child"


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers, like a broker behind a broken network."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
@pytest.mark.parametrize("answers", ["refuses", "is silent"])
def test_a_broker_that_is_away_never_makes_live_traffic_wait(
    make_host: Callable[[str, Settings], Host], tmp_path: Path, silent_port: int, scheme: str, answers: str
) -> None:
    port = silent_port if answers == "is silent" else free_port()
    host = make_host("a", settings_for(tmp_path, f"{scheme}://127.0.0.1:{port}"))
    gateway = host.source()
    gateway.say("hold first")
    eventually(lambda: "can't cross hosts" in gateway.text(), what="the outage is told")
    usual_s, high_s, _ = (float(part) for part in gateway.say("timed 300").split())
    assert usual_s < 0.0005
    assert high_s < 0.005
    assert host.reader().reading().signal == "hold"
    begun = time.monotonic()
    gateway.quit()
    assert time.monotonic() - begun < 3.0
    assert gateway.text().count("can't cross hosts") == 1


def test_signals_cross_hosts_by_default_where_several_hosts_can_share_the_broker(tmp_path: Path) -> None:
    for url, by_default in (
        ("amqp://localhost//", True),
        ("redis://localhost/0", True),
        (f"embedded://{tmp_path}/broker.db", False),
    ):
        settings = settings_for(tmp_path, url, lane_fanout=None)
        assert is_on(settings) is by_default
        assert is_on(settings.model_copy(update={"lane_fanout": not by_default})) is not by_default


def test_a_source_that_returns_to_its_place_after_a_broker_was_away_is_heard_again(
    make_host: Callable[[str, Settings], Host], tmp_path: Path, server: Broker
) -> None:
    here, there = (make_host(name, settings_for(tmp_path, server.url)) for name in "ab")
    there.relay()
    gateway = here.source()
    eventually(lambda: sources_of(there))
    try:
        server.kill()
        reading = there.until(lambda r: r.signal == "hold")
        assert reading.is_lost
        assert reading.source.startswith("gateway on ")
    finally:
        server.start()
    there.until(lambda r: r.signal == "clear")
    gateway.say("hold again")
    assert there.until(lambda r: r.signal == "hold").reason == "again"
