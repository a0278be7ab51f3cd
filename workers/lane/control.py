"""What the lane means for a worker from moment to moment. Pure: told the time, it decides; others act.

A hold is always answered within the yield bound, and usually at once, by throwing away the micro-batch that runs. When
too much work is lost that way, or work was preempted too often, or has only just gone on, a hold is answered late, but
within the bound: a short one is then over before anything was thrown away. And work that was preempted as often as is
allowed goes on later. So what protects against thrashing never breaks what is promised to live traffic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .duty import DutyCycle
from .preemptions import Preemptions
from .reading import Reading

_RAMP_BOUNDS = 4
_FIRST_SHARE = 0.25
_LAST_MOMENT = 0.2
"""The part of the bound that is kept for the engine to obey an interrupt."""
_WASTE_SHARE = 0.15
_WASTE_MEMORY_S = 1.0
"""When more than this share of the engine's last second or so was thrown away, holds are answered late."""
_PATIENCE = 8
"""So often in a row one micro-batch is interrupted; then it may end, or a long one would never be done."""


@dataclass(frozen=True, slots=True)
class YieldLimits:
    """A pool's bounds; seconds.

    Attributes:
        yield_bound_s: the accelerator is given back within this.
        drain_s: a micro-batch that is expected to end so soon is left to end.
        min_run_s: a hold so soon after work went on is answered late.
        preemptions_per_minute: work goes on later when it would be preempted more often; one per bound by default.
    """

    yield_bound_s: float = 0.05
    drain_s: float = 0.005
    min_run_s: float = 0.02
    preemptions_per_minute: int = 1200


@dataclass(frozen=True, slots=True)
class Permit:
    """Whether the next micro-batch may run.

    Attributes:
        may_run: it may.
        why: "lane": a source holds; "duty": the share of this moment is used up; "preempted": too often, lately.
        reason: for people.
        since: monotonic seconds since when a source holds without a break; for `why` "lane".
        until: monotonic seconds at which to ask again at the latest; None: when something changes.
    """

    may_run: bool
    why: Literal["", "lane", "duty", "preempted"] = ""
    reason: str = ""
    since: float = 0.0
    until: float | None = None


_GO = Permit(True)


class Control:
    """One worker's answers to its lane. Times are monotonic seconds, and never go back.

    Attributes:
        preemptions: how often running work had to stop for a hold.
    """

    def __init__(self, limits: YieldLimits) -> None:
        self._limits = limits
        self._duty = DutyCycle()
        self._bound = Preemptions(limits.preemptions_per_minute)
        self._stands = False
        self._runs_since = -math.inf
        self._held_since: float | None = None
        self._seen_at = -math.inf
        self._clear_at = -math.inf
        self._interrupted = 0
        self._kept_s, self._lost_s = _WASTE_MEMORY_S, 0.0
        self.preemptions = 0

    def permit(self, reading: Reading, *, expected_s: float, now: float) -> Permit:
        """May a micro-batch that is expected to take so long begin now?"""
        self._heed(reading, now)
        self._duty.tell(reading.headroom if reading.signal == "clear" else 0.0, now)
        if self._held_since is not None:
            if not self._stands:
                if self._is_late(now) and now + expected_s <= self._answer_by():
                    return _GO
                self._stands = True
                self.preemptions += 1
            reason = f"{reading.source} holds: {reading.reason}" if reading.source else reading.reason
            return Permit(False, "lane", reason, self._held_since, reading.until)
        start = self._duty.may_start_at(expected_s, now)
        if start > now:
            share = f"{reading.source} leaves batch work {reading.headroom:.0%} of the time"
            return Permit(False, "duty", f"{share} ({reading.reason})", until=start)
        if self._stands:
            start = self._bound.next_at(now)
            if start > now:
                return Permit(False, "preempted", "it was preempted too often in the last minute", until=start)
            self._bound.take(now)
            self._stands, self._runs_since = False, now
        return _GO

    def interrupt_at(self, reading: Reading, *, started: float, expected_s: float, now: float) -> float | None:
        """When to stop the micro-batch that runs now, seen at `now`; None: let it end."""
        self._heed(reading, now)
        if self._held_since is None or self._interrupted >= _PATIENCE:
            return None
        # What takes longer than it was thought to is thought to take half as long again as it has.
        ends_at = max(started + expected_s, now + (now - started) / 2 if now > started + expected_s else 0.0)
        if ends_at <= max(self._held_since, started) + self._limits.drain_s:
            return self._answer_by()  # if it should not end after all
        if self._is_wasteful() or self._bound.is_scarce(now):
            return self._answer_by()  # the hold may be over by then
        if self._has_just_begun() and ends_at <= self._answer_by():
            return self._answer_by()
        return now

    def ran(self, seconds: float) -> None:
        """A micro-batch has ended, and took so long."""
        self._duty.spend(seconds)
        self._interrupted = 0
        self._remember(kept_s=seconds)

    def interrupted(self, seconds: float) -> None:
        """A micro-batch was stopped after so long, and will run again."""
        self._duty.spend(seconds)
        self._interrupted += 1
        self._remember(lost_s=seconds)

    @property
    def hold(self) -> tuple[float, float] | None:
        """When the hold that is on began, and when it was first seen; None without one."""
        return None if self._held_since is None else (self._held_since, self._seen_at)

    def batch_share(self, now: float) -> float:
        """Which part of the usual size a micro-batch should have: smaller for a moment after work went on."""
        ramp_s = _RAMP_BOUNDS * self._limits.yield_bound_s
        return min(1.0, max(_FIRST_SHARE, (now - self._runs_since) / ramp_s))

    # -- inside ------------------------------------------------------------------------------------------

    def _heed(self, reading: Reading, now: float) -> None:
        if reading.signal == "hold":
            if self._held_since is None:
                # It may have begun before we looked, but not while we saw the lane clear.
                self._held_since = min(now, max(reading.since, self._clear_at))
                self._seen_at = now
        else:
            self._held_since = None
            self._clear_at = now

    def _is_late(self, now: float) -> bool:
        return self._has_just_begun() or self._is_wasteful() or self._bound.is_scarce(now)

    def _is_wasteful(self) -> bool:
        return self._lost_s > _WASTE_SHARE * (self._lost_s + self._kept_s)

    def _remember(self, *, kept_s: float = 0.0, lost_s: float = 0.0) -> None:
        fade = math.exp(-(kept_s + lost_s) / _WASTE_MEMORY_S)
        self._kept_s = self._kept_s * fade + kept_s
        self._lost_s = self._lost_s * fade + lost_s

    def _has_just_begun(self) -> bool:
        assert self._held_since is not None
        return self._held_since - self._runs_since < self._limits.min_run_s

    def _answer_by(self) -> float:
        assert self._held_since is not None
        return self._held_since + self._limits.yield_bound_s * (1 - _LAST_MOMENT)
