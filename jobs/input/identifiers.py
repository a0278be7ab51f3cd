"""Whether each custom_id is new: exact, with bounded memory."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import NamedTuple, Self


class Repeated(NamedTuple):
    """A custom_id that came again."""

    custom_id: str
    where: str
    earlier: str


class Identifiers:
    """All custom_ids so far. The newest are kept in memory, the others in a temporary SQLite database.

    Close it, or use it in a `with`. The database is a file without a name: it vanishes with the process too.

    Args:
        in_memory: how many are kept before they move to the database.
    """

    def __init__(self, in_memory: int = 50_000) -> None:
        self._in_memory = in_memory
        self._recent: dict[str, str] = {}
        self._database: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, custom_id: str, where: str) -> list[Repeated]:
        """Take one in; returns what came again: this one, or earlier ones that are only found now."""
        if custom_id in self._recent:
            return [Repeated(custom_id, where, self._recent[custom_id])]
        self._recent[custom_id] = where
        return self._spill() if len(self._recent) >= self._in_memory else []

    def finish(self) -> list[Repeated]:
        """Those that came again and were not told yet."""
        return self._spill() if self._database else []

    def close(self) -> None:
        """Give memory and disk back."""
        self._recent.clear()
        if self._database:
            self._database.close()
            self._database = None

    def _spill(self) -> list[Repeated]:
        database = self._database = self._database or _open()
        repeated: list[Repeated] = []
        try:
            # Sorted, so that neighbours share pages.
            database.executemany("INSERT INTO seen VALUES (?, ?)", sorted(self._recent.items()))
        except sqlite3.IntegrityError:
            database.rollback()
            for custom_id, where in self._recent.items():
                with closing(database.execute("SELECT place FROM seen WHERE custom_id = ?", (custom_id,))) as found:
                    earlier = found.fetchone()
                if earlier:
                    repeated.append(Repeated(custom_id, where, earlier[0]))
                else:
                    database.execute("INSERT INTO seen VALUES (?, ?)", (custom_id, where))
        database.commit()
        self._recent = {}
        return repeated


def _open() -> sqlite3.Connection:
    # An empty name: SQLite makes a file where temporary ones go and unlinks it at once.
    database = sqlite3.connect("", check_same_thread=False)
    database.execute("PRAGMA synchronous = OFF")
    database.execute("PRAGMA cache_size = -32768")
    database.execute("CREATE TABLE seen (custom_id TEXT PRIMARY KEY, place TEXT) WITHOUT ROWID")
    return database
