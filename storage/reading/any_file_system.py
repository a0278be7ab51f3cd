"""Any file system behind fsspec, by its own `cat_file`."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from ..answer import Space
from ..backends import lacks_credentials
from ..errors import ObjectChanged, StoreUnavailable
from ..sources import version_of
from .origin import Progress, Version


class AnyFileSystem:
    """Reads through the file system's own methods: right everywhere, and as fast as they are."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    def get_ready(self, path: str) -> None:
        return None

    def first(self, path: str, length: int) -> tuple[Version, bytes]:
        version = self._version(path)
        return version, self._get(path, 0, min(length, version.size)) if version.size else b""

    def read_into(self, path: str, version: Version, start: int, into: Space, progress: Progress) -> None:
        data = self._get(path, start, start + len(into))
        if len(data) != len(into) or self._version(path) != version:
            raise ObjectChanged(path)
        got = 0
        while got < len(data):
            piece = into[got : len(data)]
            piece[:] = data[got : got + len(piece)]
            got += len(piece)
            del piece  # or it could not be handed out as it is
        progress(got)

    def close(self) -> None:
        return None

    def _version(self, path: str) -> Version:
        # Listings that were kept from earlier don't tell what the object is now.
        self._fs.invalidate_cache(path.rpartition("/")[0])
        with _asking(path):
            about: dict[str, Any] = self._fs.info(path)
        if about["type"] == "directory":
            raise IsADirectoryError(f"{path} is a folder; name an object in it, or list it with fs.ls()")
        if about["size"] is None:
            raise StoreUnavailable(
                f"{path} has no known size, so it can't be read in ranges; open it without a profile"
            )
        return Version(int(about["size"]), version_of(about))

    def _get(self, path: str, start: int, end: int) -> bytes:
        with _asking(path):
            return bytes(self._fs.cat_file(path, start=start, end=end))


@contextmanager
def _asking(path: str) -> Generator[None]:
    """Clients raise many kinds of error for an answer that did not come; those that a caller can tell apart pass."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if lacks_credentials(error):
            raise PermissionError(f"{path} can't be read, since there are no credentials for it: {error}") from error
        raise StoreUnavailable(f"{path} can't be read: {type(error).__name__}: {error}") from error
