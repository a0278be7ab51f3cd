"""What an engine is: the code that turns rows into results, one micro-batch at a time.

An engine belongs to one process and one thread calls it. It never decides when to run: the runner
cuts the work into micro-batches small enough for the yield bound and reads the lane between any two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ...jobs.rows import Row, RowError


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What produced a result; recorded with each one.

    Attributes:
        name: the engine's name in `holdshort.toml`, e.g. "minilm".
        version: of the code that computes, e.g. "onnxruntime-1.32.0".
        weights: hash of the weights, e.g. "sha256:8199be…"; "" for an engine without weights.
    """

    name: str
    version: str
    weights: str = ""

    @property
    def fingerprint(self) -> str:
        """One line that changes whenever results might, e.g. "minilm/onnxruntime-1.32.0/8199be6f699a"."""
        digest = self.weights.removeprefix("sha256:")[:12]
        return "/".join(part for part in (self.name, self.version, digest) if part)


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of a row that the engine executes in one go: the least that a micro-batch can hold.

    Attributes:
        cost: size in the engine's own currency (tokens for a model); at least 1.
        payload: what the engine needs to execute it.
    """

    cost: int
    payload: Any


class Engine(Protocol):
    """Turns rows into results.

    A row becomes one or more units (a long document, several windows); micro-batches are made of
    units of any rows; when all units of a row have an output, `finish` makes its response body.
    Results must not depend on how units were grouped, on the worker, or on a restart.
    """

    @property
    def info(self) -> EngineInfo:
        """What computes; known after `load`."""
        ...

    def load(self) -> None:
        """Load what is kept warm between jobs. Raises EngineError with the cure."""
        ...

    def units(self, row: Row) -> Sequence[Unit] | RowError:
        """Cut a row into units, or say why it can't be answered (e.g. too long for the model)."""
        ...

    def cost(self, units: Sequence[Unit]) -> int:
        """Cost of executing these units as one micro-batch, e.g. their number times the longest (padding)."""
        ...

    def infer(self, units: Sequence[Unit]) -> Sequence[Any | RowError]:
        """Execute one micro-batch; one output, or RowError, per unit, in order.

        Raises:
            Interrupted: `interrupt` was called meanwhile; no output of this micro-batch is kept.
            Exception: anything else counts against the rows of this micro-batch: the runner tries
                them one by one to find which row is at fault.
        """
        ...

    def finish(self, row: Row, outputs: Sequence[Any]) -> dict[str, Any] | RowError:
        """The response body of a row from the outputs of its units (numpy arrays allowed inside)."""
        ...

    def interrupt(self) -> None:
        """Stop the running `infer` as soon as possible; called from another thread; may do nothing."""
        ...

    def suspend(self) -> None:
        """Release accelerator memory while the lane is held; `resume` undoes it."""
        ...

    def resume(self) -> None:
        """Take back what `suspend` released."""
        ...

    def close(self) -> None:
        """Release everything; called once, at the end."""
        ...


class BaseEngine:
    """Defaults for the optional parts of an engine."""

    def cost(self, units: Sequence[Unit]) -> int:
        return sum(unit.cost for unit in units)

    def interrupt(self) -> None:
        return None

    def suspend(self) -> None:
        return None

    def resume(self) -> None:
        return None

    def close(self) -> None:
        return None
