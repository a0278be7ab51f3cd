"""Sources come, speak, fall silent, die, return and are dismissed in any order: a reader agrees with a simple model."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from holdshort.workers.lane.place import LanePlace
from holdshort.workers.lane.reader import LaneReader, dismiss
from holdshort.workers.lane.source import Source

NS = 1_000_000_000
BEAT_NS = NS // 10
SILENT_NS = 10 * BEAT_NS
LOSS_NS = 5 * NS
NAMES = st.sampled_from(["chat", "chat", "chat", "embedder"])
NUMBERS = st.integers(0, 100)
HEADROOMS = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])
NANOSECONDS = st.sampled_from([1, BEAT_NS, SILENT_NS - 1, SILENT_NS, 3 * NS, LOSS_NS])


@dataclass
class Modelled:
    """What was said by a source, and what became of it."""

    source: Source
    beat: int
    headroom: float = 1.0
    until: int | None = None
    is_alive: bool = True
    is_dismissed: bool = False
    was_lost: bool = False

    def is_silent(self, now: int) -> bool:
        return now >= self.beat + SILENT_NS

    def is_lost(self, now: int) -> bool:
        return self.is_silent(now) and not self.is_dismissed and now < self.beat + SILENT_NS + LOSS_NS

    def counts(self, now: int) -> float | None:
        """The headroom that it leaves; 0.0 is a hold, None one that does not count."""
        if self.is_silent(now):
            return 0.0 if self.is_lost(now) else None
        return 1.0 if self.until is not None and now >= self.until else self.headroom


class Sources(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000 * NS
        self.folder = tempfile.TemporaryDirectory()
        self.place = LanePlace(Path(self.folder.name) / "lane")
        self.told: list[str] = []
        self.reader = LaneReader(
            self.place, "embed", signal_loss_timeout_s=LOSS_NS / NS, clock=self.seconds, on_lost=self.told.append
        )
        self.model: dict[str, Modelled] = {}
        self.losses = 0

    def seconds(self) -> float:
        return self.now / NS

    def one(self, number: int) -> Modelled | None:
        living = [modelled for modelled in self.model.values() if modelled.is_alive]
        return living[number % len(living)] if living else None

    def said(self, modelled: Modelled | None, headroom: float, until: int | None) -> None:
        assert modelled is not None
        modelled.beat, modelled.headroom, modelled.until, modelled.is_dismissed = self.now, headroom, until, False

    def teardown(self) -> None:
        for modelled in self.model.values():
            modelled.source.close()
        self.folder.cleanup()

    @rule(name=NAMES)
    def join(self, name: str) -> None:
        dead = [slot for slot, other in self.model.items() if other.source.name == name and not other.is_alive]
        source = Source(self.place, pool="embed", name=name, beats=False, clock_ns=lambda: self.now)
        assert source.slot in dead or not dead, "it takes the place of one that died"
        self.model[source.slot] = Modelled(source, self.now)

    @rule(number=NUMBERS, until=st.none() | NANOSECONDS)
    @precondition(lambda self: self.one(0))
    def hold(self, number: int, until: int | None) -> None:
        modelled = self.one(number)
        assert modelled is not None
        modelled.source.hold("live", for_s=None if until is None else until / NS)
        self.said(modelled, 0.0, None if until is None else self.now + until)

    @rule(number=NUMBERS, headroom=HEADROOMS)
    @precondition(lambda self: self.one(0))
    def clear(self, number: int, headroom: float) -> None:
        modelled = self.one(number)
        assert modelled is not None
        modelled.source.clear(headroom=headroom)
        self.said(modelled, headroom, None)

    @rule(number=NUMBERS)
    @precondition(lambda self: self.one(0))
    def beat(self, number: int) -> None:
        modelled = self.one(number)
        assert modelled is not None
        modelled.source.beat()
        self.said(modelled, modelled.headroom, modelled.until)

    @rule()
    def beat_all(self) -> None:
        for modelled in self.model.values():
            if modelled.is_alive:
                modelled.source.beat()
                self.said(modelled, modelled.headroom, modelled.until)

    @rule(number=NUMBERS)
    @precondition(lambda self: self.one(0))
    def say_goodbye(self, number: int) -> None:
        modelled = self.one(number)
        assert modelled is not None
        modelled.source.close()
        del self.model[modelled.source.slot]

    @rule(number=NUMBERS)
    @precondition(lambda self: self.one(0))
    def die(self, number: int) -> None:
        """What the kernel does for a process that is killed: its files are closed, and nothing is said."""
        modelled = self.one(number)
        assert modelled is not None
        modelled.source.disown()
        modelled.is_alive = False

    @rule(name=NAMES)
    def dismiss(self, name: str) -> None:
        named = [modelled for modelled in self.model.values() if modelled.source.name == name]
        silent = [modelled for modelled in named if modelled.is_silent(self.now)]
        found = dismiss(self.place, "embed", name, clock=self.seconds)
        assert (found.dismissed, found.alive) == (len(silent), len(named) - len(silent))
        for modelled in silent:
            modelled.is_dismissed = True

    @rule(nanoseconds=NANOSECONDS)
    def wait(self, nanoseconds: int) -> None:
        self.now += nanoseconds

    @invariant()
    def the_reader_agrees(self) -> None:
        words = {slot: modelled.counts(self.now) for slot, modelled in self.model.items()}
        headroom = min((word for word in words.values() if word is not None), default=1.0)
        reading = self.reader.reading()
        assert (reading.signal, reading.headroom) == ("clear" if headroom else "hold", headroom)
        for modelled in self.model.values():
            is_lost = modelled.is_lost(self.now)
            self.losses += is_lost and not modelled.was_lost
            modelled.was_lost = is_lost
        assert (self.reader.losses, len(self.told)) == (self.losses, self.losses)
        states = self.reader.sources()
        assert len(states) == len(self.model)
        assert sum(state.reading is not None for state in states) == sum(word is not None for word in words.values())
        fresh = LaneReader(
            self.place, "embed", signal_loss_timeout_s=LOSS_NS / NS, clock=self.seconds, on_lost=lambda name: None
        )
        assert fresh.reading() == reading, "a reader that starts now sees the same"


Sources.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
TestSources = Sources.TestCase
