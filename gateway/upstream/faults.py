"""What can go wrong with the upstream, each with the status that a client sees if its answer has not begun."""

from __future__ import annotations

from typing import Literal

from ..refusal import Refusal

Fault = Literal["unreachable", "connect_timeout", "first_byte_timeout", "idle_timeout", "reset", "garbage"]

_STATUS: dict[Fault, int] = {
    "unreachable": 502,
    "connect_timeout": 504,
    "first_byte_timeout": 504,
    "idle_timeout": 504,
    "reset": 502,
    "garbage": 502,
}


class UpstreamFault(Refusal):
    """Raised when the upstream does not answer as it should.

    Args:
        fault: for the metric, and as the answer's code: "upstream_" and this.
        message: for people.
    """

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(_STATUS[fault], f"upstream_{fault}", message)
        self.fault: Fault = fault
