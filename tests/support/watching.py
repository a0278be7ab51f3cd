"""What child processes do in tests of what processes tell each other; they find it by this name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdshort.profiles import BUILT_IN
from holdshort.storage.filesystem import AutoFileSystem
from holdshort.storage.observing import Observing
from holdshort.storage.patterns import Patterns

STORE = "s3-test"
MIB = 2**20


def read_whole(observing: Observing, path: str, size: int, tag: str = "same") -> None:
    """An object is opened and read in order."""
    observing.tell("open", path, size=size, tag=tag)
    for start in range(0, size, size // 16):
        observing.tell("read", path, size=size, start=start, length=size // 16)


def watch(paths: Sequence[str], size: int, told: Any, begin: Any = None, until: Any = None) -> None:
    """Read objects of a size, and put into the queue what is concluded once all have."""
    observing = Observing(BUILT_IN, Patterns(STORE), every_s=0.0)
    if begin is not None:
        begin.wait()
    for path in paths:
        read_whole(observing, path, size)
    if until is not None:
        until.wait()
    choice = observing.choice(paths[0])
    told.put("" if choice is None else f"{choice.profile.name}: {choice.why}")


def read_auto(options: dict[str, Any], path: str, times: int, told: Any) -> None:
    """Read an object so many times through auto::, and put into the queue which profile counted at first."""
    fs = AutoFileSystem(target_protocol="s3", target_options=options, skip_instance_cache=True)
    told.put(fs.explain(path)[1].profile)
    for _ in range(times):
        with fs.open(path) as file:
            while file.read(MIB):
                pass


def tell_for_ever() -> None:
    """Tell what was seen, again and again."""
    observing = Observing(BUILT_IN, Patterns(STORE), every_s=0.0)
    while True:
        read_whole(observing, "bkt/data/a", MIB)
