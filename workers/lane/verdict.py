"""What a source's last word means at a given moment. Pure.

A source that beats is believed. One that has fallen silent without goodbye is taken for a hold, until it returns, is
dismissed, or the time-out for lost signals has passed: batch work may lose time by that, live traffic nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .reading import Reading
from .record import Header, Word

BEAT_S = 0.1
"""How often a source beats. Ten missed beats make it silent."""
MISSED_BEATS = 10
NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a source means, and for how long that holds if nothing is heard.

    Attributes:
        reading: None for a source that counts no more.
        good_until: monotonic seconds.
    """

    reading: Reading | None
    good_until: float = math.inf


def judge(header: Header, word: Word, *, now: float, dismissed: bool, signal_loss_timeout_s: float) -> Verdict:
    """The verdict on a source's last word at `now` (monotonic seconds)."""
    if word.state == "closed":
        return Verdict(None)
    name = title(header)
    silent_at = silent_at_s(header, word)
    if now >= silent_at:
        if dismissed:
            return Verdict(None)
        given_up_at = silent_at + signal_loss_timeout_s
        if now >= given_up_at:
            return Verdict(None)
        reason = f"no sign of life from {name} since it fell silent in the middle of its work"
        return Verdict(Reading("hold", 0.0, reason, name, silent_at, given_up_at, is_lost=True), given_up_at)
    since = word.since_ns / NS
    until = None if word.until_ns is None else word.until_ns / NS
    if word.state == "hold" and (until is None or now < until):
        return Verdict(Reading("hold", 0.0, word.reason, name, since, until), min(silent_at, until or math.inf))
    if word.state == "hold":
        return Verdict(Reading("clear", 1.0, "its hold has ended", name, until or since), silent_at)
    return Verdict(Reading("clear", word.headroom, word.reason, name, since), silent_at)


def silent_at_s(header: Header, word: Word) -> float:
    """From when (monotonic seconds) a source counts as silent whose last word this is."""
    return (word.beat_ns + MISSED_BEATS * header.beat_ns) / NS


def unreadable(name: str, problem: str, *, owner_lives: bool, seen: float, now: float, timeout_s: float) -> Verdict:
    """The verdict on a map that can't be read: a hold, for as long as its owner lives, else until the time-out.

    Args:
        seen: monotonic seconds at which it was first met.
    """
    given_up_at = seen + timeout_s
    if not owner_lives and now >= given_up_at:
        return Verdict(None)
    until = None if owner_lives else given_up_at
    return Verdict(
        Reading("hold", 0.0, f"the lane map of {name} can't be read: {problem}", name, seen, until, is_lost=True),
        now + 1.0 if owner_lives else min(given_up_at, now + 1.0),
    )


def title(header: Header) -> str:
    """How people call a source: "gateway", or "gateway on host-b"."""
    return f"{header.name} on {header.host}" if header.host else header.name
