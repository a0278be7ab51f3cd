"""Which local file becomes which object, when several are put."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fsspec import AbstractFileSystem


def pairs(
    local: Any, remote: Any, *, recursive: bool, maxdepth: int | None, strip: Callable[[str], str], isdir: Any
) -> list[tuple[str, str]]:
    """(local path, object's path), folders among them, by the rules of fsspec's own `put`.

    Args:
        strip: takes the protocol from an object's path.
        isdir: whether there are objects below a path.
    """
    noting: Any = _Noting(strip, isdir)
    noting.put(local, remote, recursive=recursive, maxdepth=maxdepth)
    return noting.pairs


class _Noting(AbstractFileSystem):
    """Notes what is to be copied instead of copying it."""

    cachable = False

    def __init__(self, strip: Callable[[str], str], isdir: Any) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self._strip_protocol: Any = strip
        self.isdir = isdir
        self.pairs: list[tuple[str, str]] = []

    def put_file(self, lpath: Any, rpath: Any, callback: Any = None, mode: str = "overwrite", **kwargs: Any) -> None:
        self.pairs.append((str(lpath), str(rpath)))
