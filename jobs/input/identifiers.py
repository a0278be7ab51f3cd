"""Whether each custom_id is new: exact, with bounded memory."""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterator
from operator import attrgetter
from typing import IO, NamedTuple, Self

from ...storage.errors import StoreFull

_PARTS = 256


class Repeated(NamedTuple):
    """A custom_id that came again: where, where it came first, and a number that grows from one to the next."""

    number: int
    custom_id: str
    where: str
    earlier: str


class Identifiers:
    """All custom_ids so far. The newest are kept in memory, the others in a temporary file.

    In the file they lie parted by their hash, so that `finish` needs no more than one part in memory: what a
    million ids take is a few megabytes. Close it, or use it in a `with`. The file has no name and vanishes
    with the process too.

    Args:
        in_memory: how many are kept before they move to the file.
    """

    def __init__(self, in_memory: int = 50_000) -> None:
        self._in_memory = in_memory
        self._recent: dict[str, str] = {}
        self._first = 0
        self._file: IO[bytes] | None = None
        self._pieces: list[list[tuple[int, int]]] = [[] for _ in range(_PARTS)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, custom_id: str, where: str) -> Repeated | None:
        """Take one in. What repeats a recent one is told now, and is not told again by `finish`.

        Raises StoreFull when there is no space for temporary files.
        """
        if custom_id in self._recent:
            return Repeated(self._first + len(self._recent), custom_id, where, self._recent[custom_id])
        self._recent[custom_id] = where
        if len(self._recent) >= self._in_memory:
            self._spill()
        return None

    def finish(self, most: int) -> list[Repeated]:
        """The first so many of those that repeat one that was not recent, in the order of their coming."""
        if self._file is None:
            return []
        self._spill()
        found = (repeated for part in range(_PARTS) for repeated in self._repeated(self._file, part))
        return heapq.nsmallest(most, found, key=attrgetter("number"))

    def close(self) -> None:
        """Give memory and disk back."""
        self._recent.clear()
        if self._file:
            self._file.close()
            self._file = None

    def _spill(self) -> None:
        parts: list[list[str]] = [[] for _ in range(_PARTS)]
        for number, (custom_id, where) in enumerate(self._recent.items(), self._first):
            # No id and no path holds a NUL.
            parts[hash(custom_id) % _PARTS].append(f"{number}\0{custom_id}\0{where}\0")
        self._first += len(self._recent)
        self._recent = {}
        try:
            file = self._file = self._file or tempfile.TemporaryFile(prefix="holdshort-")  # noqa: SIM115
            for part, items in enumerate(parts):
                data = "".join(items).encode("utf-8", "surrogatepass")
                self._pieces[part].append((file.tell(), len(data)))
                file.write(data)
            file.flush()
        except OSError as error:
            raise StoreFull(
                f"No temporary file for the custom_ids can be written in {tempfile.gettempdir()} "
                f"({error.strerror}). Free space there, or set TMPDIR to another folder."
            ) from error

    def _repeated(self, file: IO[bytes], part: int) -> Iterator[Repeated]:
        seen: dict[str, str] = {}
        for start, size in self._pieces[part]:
            file.seek(start)
            items = file.read(size).decode("utf-8", "surrogatepass").split("\0")
            for number, custom_id, where in zip(items[0::3], items[1::3], items[2::3], strict=False):
                if seen.setdefault(custom_id, where) is not where:
                    yield Repeated(int(number), custom_id, where, seen[custom_id])
