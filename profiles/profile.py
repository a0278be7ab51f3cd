"""What an access profile is: how bytes of one kind are read and written, and why so."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Profile:
    """How bytes of one kind move between a store and a process.

    Attributes:
        name: as users write it.
        part_bytes: size of one transfer; also how often a copy looks whether it should yield.
        reason: why these values fit, in one sentence.
    """

    name: str
    part_bytes: int
    reason: str


CHECKPOINT = Profile(
    name="checkpoint",
    part_bytes=8 * MIB,
    reason="large files written once: at 90 MB/s per connection a part of 8 MiB takes about 90 ms, "
    "so a copy can stop between parts without holding up live traffic for long",
)
