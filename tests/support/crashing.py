"""Saves steps in processes that are killed, fail or meet a store in trouble, and looks at what is there afterwards.

What runs in a child is found by name, and imports here what it needs: children are forked from a server that has all of
it at hand.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any, Literal

import fsspec.implementations.local  # noqa: F401 - warm
import numpy as np

import holdshort.storage.checkpoints.by_url
import holdshort.storage.checkpoints.saving  # noqa: F401 - warm
from holdshort.storage import checkpoints
from holdshort.storage.checkpoints import collecting
from holdshort.storage.checkpoints.manifest import steps
from holdshort.storage.checkpoints.runs import run_at
from holdshort.storage.errors import HoldshortError

with suppress(ImportError):
    import s3fs  # noqa: F401 - warm

Kind = Literal["kill", "kill async", "raise", "trouble", "kill a rank"]
BreachKind = Literal["not_whole", "lost", "not_restored"]
_LATER, _MUCH_LATER = 7200.0, 8 * 86400.0


class Planned(Exception):
    """What a writer fails with, as planned."""


class Breach(AssertionError):
    """What must not be, and was found after a crash.

    Attributes:
        what: something is visible that was not committed whole, a committed step is gone, or a restore does not find
            the last.
    """

    def __init__(self, what: BreachKind, says: str) -> None:
        super().__init__(says)
        self.what = what


def state_of(step: int, rank: int = 0) -> dict[str, Any]:
    """A state of a few MB that only this step and rank have."""
    drawn = np.random.default_rng((step, rank))
    return {
        "step": step,
        "model": {
            f"layer-{number}": drawn.integers(0, 255, int(drawn.integers(1, 2_000_000)), dtype=np.uint8)
            for number in range(int(drawn.integers(1, 5)))
        },
        "optimizer": [drawn.random(1000), {"rank": rank}],
    }


def is_same(left: Any, right: Any) -> bool:
    """Whether two states hold the same."""
    if isinstance(left, np.ndarray):
        return isinstance(right, np.ndarray) and left.dtype == right.dtype and np.array_equal(left, right)
    if isinstance(left, dict):
        return isinstance(right, dict) and left.keys() == right.keys() and all(is_same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return type(left) is type(right) and len(left) == len(right) and all(map(is_same, left, right))
    return type(left) is type(right) and left == right


def saves(
    url: str, options: dict[str, Any], first: int, kind: str, seed: int, told: Connection, rank: int, ranks: int
) -> None:
    """Save one step after the other, and tell of each that is committed."""
    chance = random.Random(seed)
    count = 1 if kind in ("raise", "trouble", "kill a rank") else 50
    told.send("begun")
    for step in range(first, first + count):
        state = state_of(step, rank)
        try:
            if kind == "kill async":
                saved = checkpoints.save_async(state, url, step, storage_options=options).result()
            else:
                saved = checkpoints.save(
                    state, url, step, storage_options=options, patience_s=3, timeout_s=1.5, rank=rank, ranks=ranks,
                    token=f"{seed}", progress=_failing(chance) if kind == "raise" else lambda done, total: None,
                )  # fmt: skip
        except (Planned, HoldshortError) as error:
            told.send(f"{type(error).__name__}: {error}")
            return
        told.send((step, saved.took_s))


def _failing(chance: random.Random) -> Callable[[int, int], None]:
    share = chance.random() * 1.2

    def progress(done: int, total: int) -> None:
        if done >= share * total:
            raise Planned

    return progress


def warm_server() -> Any:
    """A server that forks processes which have imported all; the first call starts it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.crashing"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # the server does not take over our path by itself
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


@contextmanager
def without_main() -> Iterator[None]:
    """Children do not need what our process was started as, and would import it."""
    main = vars(sys.modules["__main__"])
    file = main.pop("__file__", None)  # a worker of pytest-xdist has none
    try:
        yield
    finally:
        if file is not None:
            main["__file__"] = file


class Crashes:
    """Rounds of crashes on one run; each leaves what it leaves to the next.

    Attributes:
        seen: how often what has happened.
    """

    def __init__(self, url: str, options: dict[str, Any], *, seed: int, typical_s: float) -> None:
        self.url, self.options = url, options
        self.chance = random.Random(seed)
        self.typical_s = typical_s
        self.step = 0
        self.seen: Counter[str] = Counter()
        self._known: set[int] = set()
        self._context = warm_server()

    def round(self, kind: Kind, after: Callable[[], None] = lambda: None) -> None:
        """One crash, and a look at what is there. Raises Breach if it is not as promised.

        Args:
            after: called when all has happened, before the look.
        """
        ranks = 2 if kind == "kill a rank" else 1
        first, seed = self.step + 1, self.chance.getrandbits(32)
        children: list[tuple[Any, Connection]] = []
        for rank in range(ranks):
            ours, theirs = self._context.Pipe(duplex=False)
            child = self._context.Process(
                target=saves, args=(self.url, self.options, first, kind, seed, theirs, rank, ranks), daemon=True
            )
            with without_main():
                child.start()
            theirs.close()
            children.append((child, ours))
        for _, ours in children:
            assert ours.recv() == "begun"
        if kind.startswith("kill"):
            time.sleep(self.chance.random() * 2.5 * self.typical_s)
            children[self.chance.randrange(ranks)][0].kill()
        said: list[Any] = []
        for child, ours in children:
            with suppress(EOFError, ConnectionError):
                while True:
                    said.append(ours.recv())
            child.join()
            ours.close()
        after()
        # So that about as many are killed before a commit as after it.
        took = [each[1] for each in said if isinstance(each, tuple)]
        if took:
            self.typical_s += 0.2 * (took[0] - self.typical_s)
        elif kind.startswith("kill"):
            self.typical_s *= 1.1
        self.look(kind, said, first, ranks)

    def look(self, kind: Kind, said: list[Any], first: int, ranks: int) -> None:
        """Whatever is visible is whole and right, what was committed is there, and restore finds the last."""
        committed = {each[0] for each in said if isinstance(each, tuple)}
        run = run_at(self.url, self.options)
        visible = set(steps(run.store, run.name))
        if gone := committed - visible:
            raise Breach("lost", f"{kind}: committed, but not there: {gone}")
        if lost := self._known - visible:
            raise Breach("lost", f"{kind}: steps that were there are gone: {lost}")
        for step in sorted(visible - self._known):
            for rank in range(ranks):
                try:
                    restored = checkpoints.restore(
                        self.url, step=step, rank=rank, ranks=ranks, storage_options=self.options
                    )
                except HoldshortError as error:
                    raise Breach("not_whole", f"{kind}: step {step} is visible and not whole: {error}") from error
                if not is_same(state_of(step, rank), restored.state):
                    raise Breach("not_whole", f"{kind}: step {step} has another content")
            self.seen["committed and not said"] += step not in committed
        if visible:
            try:
                newest = checkpoints.newest_whole(self.url, storage_options=self.options)
            except HoldshortError as error:
                raise Breach("not_restored", f"{kind}: restore finds nothing: {error}") from error
            if newest.step != max(visible):
                raise Breach("not_restored", f"{kind}: restore finds {newest.step}, not {max(visible)}")
        self.seen[kind] += 1
        self.seen["steps committed"] += len(visible - self._known)
        self.seen["saves that failed"] += sum(isinstance(each, str) for each in said)
        self.step = max([self.step, first, *visible])
        self._known = visible
        if self.chance.random() < 0.2:
            self.tidy()

    def tidy(self) -> None:
        """As if it were later: what crashes left goes, and no step with it; then old steps go."""
        run = run_at(self.url, self.options)
        left = collecting.collect(run.store, run.name, now=lambda: time.time() + _LATER)
        self.seen["attempts collected"] += sum(one.removed for one in left)
        sealed = [one for one in left if not one.removed]
        assert all("about to be committed" in one.why for one in sealed), sealed
        self.seen["attempts left sealed"] += len(sealed)
        assert not [one for one in collecting.collect(run.store, run.name, now=lambda: time.time() + _MUCH_LATER)
                    if not one.removed]  # fmt: skip
        if set(steps(run.store, run.name)) != self._known:
            raise Breach("lost", f"of {self._known} there are {set(steps(run.store, run.name))} after collecting")
        if self._known:
            checkpoints.prune(self.url, 3, storage_options=self.options)
            kept = set(steps(run.store, run.name))
            assert kept == set(sorted(self._known)[-3:])
            for step in kept:
                if not checkpoints.verify(self.url, step, storage_options=self.options).is_whole:
                    raise Breach("not_whole", f"step {step} is not whole after pruning")
            self._known = kept
