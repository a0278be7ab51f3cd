"""Reading an object of the ledger so that an error names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ...storage.errors import Corrupt
from ...storage.store import Store

_T = TypeVar("_T")


def read_as(store: Store, path: str, decode: Callable[[bytes], _T], *, first: int | None = None) -> _T:
    """An object (or its first bytes), decoded. Raises ObjectNotFound, or Corrupt with the object's name."""
    data = store.read(path, first=first)
    try:
        return decode(data)
    except Corrupt as error:
        raise Corrupt(f"{store.url}/{path}: {error}") from error
