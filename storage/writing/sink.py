"""What takes the bytes of one object until they are all there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ...profiles.access import Access


class Sink(Protocol):
    """One object that is being written. One thread at a time; nothing of it is visible before `commit`.

    Every method but `discard` may raise StoreUnavailable, PermissionError or another OSError; then nothing is visible,
    and `discard` is still to be called.
    """

    def write(self, data: memoryview, *, is_all: bool = False) -> None:
        """Take more bytes, which may be changed afterwards.

        Args:
            is_all: these are all bytes of the object.
        """
        ...

    def finish(self) -> None:
        """All bytes have been written: bring away what can be, so that little is left to do and to hold."""
        ...

    def commit(self) -> None:
        """Make the object visible; as a whole, at once. After `finish`.

        Raises:
            FileExistsError: it was to be a new one, and there is one.
        """
        ...

    def discard(self) -> None:
        """Leave nothing behind. Raises nothing; what stays behind nevertheless is logged."""
        ...


class Target(Protocol):
    """Where objects of one file system are written to. Thread-safe."""

    def sink(
        self,
        path: str,
        access: Access,
        *,
        is_new: bool,
        is_held: bool,
        size_bytes: int | None,
        settings: Mapping[str, Any],
    ) -> Sink | None:
        """What takes an object; None: with those settings, or at that path, this target can't.

        Args:
            is_new: there must be none of that name.
            is_held: between `finish` and `commit` may be a long time.
            size_bytes: how large it will be, if that is known.
            settings: the file system's own, for this object.

        Raises:
            FileExistsError: it was to be a new one, and there is one.
        """
        ...
