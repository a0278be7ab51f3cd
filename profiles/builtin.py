"""The profiles that come with Holdshort.

Where a figure is given for its reason, the store takes 40 ms to the first byte and a connection moves 90 MB/s; that is
what object stores of the large clouds are like within their region. Where a profile says nothing of the cache, what it
reads is kept, and the data's size decides where. Keeping takes a fifth of the time of a cold read that waits for the
store, and more where all cores are busy (benchmarks/auto.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from types import MappingProxyType

from .access import KIB, MIB
from .profile import Profile, profile

TRAINING = profile(
    "training",
    "a data set that does not change, read shard after shard or at random, and again in every epoch",
    part_bytes=(8 * MIB, "of a request for 8 MiB the first byte takes 40 ms and the transfer 93"),
    read_ahead=(
        "adaptive",
        "shards are read in order, samples at random: it grows with one and ends with the other",
    ),
    read_ahead_bytes=(384 * MIB, "48 parts under way bring what 32 threads by hand do, and 32 four fifths of it"),
    gap_bytes=(256 * KIB, "moving this takes 3 ms, where one more request takes 40"),
    connections=(64, "small files wait for first bytes only: 64 at once bring 1,500 a second"),
    freshness_s=(inf, "a data set that changes while a model is trained on it would be a mistake"),
)

SERVING = profile(
    "serving",
    "a model's weights: the header, then nearly everything, by each replica of a host",
    part_bytes=(16 * MIB, "weights are large: of a request for 16 MiB the first byte takes a fifth of the time"),
    read_ahead=("whole", "whoever opens weights reads all of them, though not in order"),
    read_ahead_bytes=(512 * MIB, "32 parts under way bring 900 MB/s"),
    gap_bytes=(4 * MIB, "what lies between two tensors is wanted too, soon"),
    connections=(32, "more large parts at once gained nothing"),
    freshness_s=(60.0, "a release under the same name is noticed within a minute"),
    cache=("disk", "the replicas of a host and the next start read the same again"),
)

CHECKPOINT = profile(
    "checkpoint",
    "large files written once, and read as a whole after a crash, if ever",
    part_bytes=(8 * MIB, "a part takes about 130 ms, so a copy can stop between two without holding up live traffic"),
    read_ahead=("adaptive", "a restore reads in order"),
    read_ahead_bytes=(256 * MIB, "32 parts under way bring 900 MB/s"),
    gap_bytes=(1 * MIB, "moving this takes 12 ms, where one more request takes 40"),
    connections=(32, "more large parts at once gained nothing"),
    freshness_s=(0.0, "the newest step counts, not the newest that was seen"),
    cache=("none", "it is hardly ever read, and would push out what is"),
)

PLAIN = profile(
    "plain",
    "access of which nothing is known yet: follows what is read, keeps it in case it comes back, and always asks",
    part_bytes=(8 * MIB, "of a request for 8 MiB the first byte takes 40 ms and the transfer 93"),
    read_ahead=("adaptive", "it follows what is read, and ends with random access"),
    read_ahead_bytes=(384 * MIB, "as for training: 48 parts under way, and nothing that was not led up to"),
    gap_bytes=(256 * KIB, "moving this takes 3 ms, where one more request takes 40"),
    connections=(64, "how many of them pay is found while reading"),
    freshness_s=(0.0, "nobody has said that it does not change"),
)

BUILT_IN: Mapping[str, Profile] = MappingProxyType({p.name: p for p in (TRAINING, SERVING, CHECKPOINT, PLAIN)})
"""By name."""
