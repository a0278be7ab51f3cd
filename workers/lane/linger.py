"""How long the lane stays raised after the last byte of live traffic. Pure.

A conversation's next request may be near (an agent that calls a tool), or far (a person who reads). Holding on costs
the batch work its time; letting go too early costs a preemption. It is the choice between renting and buying; the
best wait for the gaps that were measured is the one that would have cost least over them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Hashable
from itertools import islice

_EDGES_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0)
_FADE = 0.98
_LEAST_SEEN = 4.0
_CONVERSATIONS = 4096


class Linger:
    """Learns from the gaps between the answers and the next requests of conversations.

    Args:
        most_s: never hold on for longer than this; 0.0: not at all.
        preemption_s: what an early release costs, in seconds of batch work: the work that is thrown away, the time
            to come to a stand and to go on, and what the live request loses by it.
        forget_s: after so long the conversation was over, and would have been waited for in vain.
    """

    def __init__(self, *, most_s: float = 0.25, preemption_s: float = 0.05, forget_s: float = 30.0) -> None:
        self._edges = (*(edge for edge in _EDGES_S if edge < most_s), most_s) if most_s > 0.0 else ()
        self._preemption_s = preemption_s
        self._forget_s = forget_s
        # Per edge: how many gaps ended before it but not before the edge below, and their sum; at last those that were
        # longer than all. Old ones fade.
        self._count = [0.0] * (len(self._edges) + 1)
        self._sum_s = [0.0] * (len(self._edges) + 1)
        self._left: OrderedDict[Hashable, float] = OrderedDict()
        self._wait_s = 0.0

    @property
    def wait_s(self) -> float:
        """How long to hold on now; 0 until enough was seen, or when nothing is gained by it."""
        return self._wait_s

    def ended(self, conversation: Hashable, now: float) -> None:
        """An answer's last byte was sent at `now` (monotonic seconds)."""
        self._forget(now)
        self._left[conversation] = now
        self._left.move_to_end(conversation)

    def began(self, conversation: Hashable, now: float) -> None:
        """A request arrived at `now`."""
        left = self._left.pop(conversation, None)
        if left is not None:
            self._learn(now - left)
        self._forget(now)

    def _forget(self, now: float) -> None:
        """Learn from the conversations that did not come back; more than we can remember count as such too.

        A few at a time, since a live request waits for us: two for each that ends are enough.
        """
        for conversation, left in list(islice(self._left.items(), 2)):
            if now - left < self._forget_s and len(self._left) < _CONVERSATIONS:
                break
            del self._left[conversation]
            self._learn(self._forget_s)

    def _learn(self, gap_s: float) -> None:
        for place in range(len(self._count)):
            self._count[place] *= _FADE
            self._sum_s[place] *= _FADE
        place = bisect_left(self._edges, gap_s)
        self._count[place] += 1.0
        self._sum_s[place] += gap_s
        self._wait_s = self._best()

    def _best(self) -> float:
        total = sum(self._count)
        if total < _LEAST_SEEN:
            return 0.0
        best_s, least = 0.0, total * self._preemption_s
        held_s = seen = 0.0
        for place, edge in enumerate(self._edges):
            seen += self._count[place]
            held_s += self._sum_s[place]
            cost = held_s + (total - seen) * (edge + self._preemption_s)
            if cost < least:
                best_s, least = edge, cost
        return best_s
