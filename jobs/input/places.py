"""Where input lies: folders of this machine, and file systems behind fsspec. Both only list and open."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, BinaryIO, Literal, Protocol, cast

from ...storage.backends import EXTRAS, not_installed
from ...storage.errors import StoreUnavailable
from .problems import UnusableError

Kind = Literal["file", "folder", "other", "missing"]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?:://|::)")
_LOCAL = re.compile(r"(?:file|local)://", re.IGNORECASE)
_SECRETS = re.compile(r"(?<=://)[^/@]*@")
_WEB = ("http://", "https://")
_BLOCK_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a folder. A kind "other" says in `note` why it can be neither read nor entered."""

    name: str
    kind: Kind
    note: str = ""


class Place(Protocol):
    """What reading needs of a file system. Paths have "/" between names.

    All methods raise UnusableError for what must be changed, StoreUnavailable for what may pass.
    """

    def kind(self, path: str) -> Kind:
        """What lies at a path."""
        ...

    def entries(self, path: str) -> list[Entry]:
        """What a folder holds, in no order."""
        ...

    def open(self, path: str) -> AbstractContextManager[BinaryIO]:
        """A file, to be read from its start."""
        ...

    def shown(self, path: str) -> str:
        """A path as messages name it: without secrets."""
        ...

    def absolute(self, path: str) -> str:
        """A path by which it can be told from every other: absolute, or a URL."""
        ...

    def context(self) -> str:
        """From where paths were looked up, as the end of a sentence; "" when that says nothing."""
        ...


def place_of(path: str, storage_options: Mapping[str, Any] | None) -> tuple[Place, str]:
    """The place that a path or URL names, and the path in it."""
    if _LOCAL.match(path) and "::" not in path:
        return LocalPlace(), path.partition("://")[2]
    if not _URL.match(path):
        return LocalPlace(), os.fspath(Path(path).expanduser()) if path.startswith("~") else path
    remote = RemotePlace(path, storage_options)
    return remote, remote.path


class LocalPlace:
    """Files of this machine."""

    def kind(self, path: str) -> Kind:
        try:
            mode = Path(path).stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return "missing"
        except (OSError, ValueError) as error:
            raise _unusable(path, error) from error
        return "file" if S_ISREG(mode) else "folder" if S_ISDIR(mode) else "other"

    def entries(self, path: str) -> list[Entry]:
        try:
            with os.scandir(path or ".") as found:
                return [self._entry(entry) for entry in found]
        except OSError as error:
            raise _unusable(path, error) from error

    @contextmanager
    def open(self, path: str) -> Generator[BinaryIO]:
        try:
            file = Path(path).open("rb")  # noqa: SIM115 - only the opening is guarded here
        except OSError as error:
            raise _unusable(path, error) from error
        with file:
            yield cast("BinaryIO", _Guarded(file, lambda error: _unusable(path, error)))

    def shown(self, path: str) -> str:
        return path or "."

    def absolute(self, path: str) -> str:
        return os.fspath(Path.cwd() / path)

    def context(self) -> str:
        return f"the working directory is {Path.cwd()}"

    @staticmethod
    def _entry(entry: os.DirEntry[str]) -> Entry:
        if entry.is_dir(follow_symlinks=False):
            return Entry(entry.name, "folder")
        if entry.is_file():
            return Entry(entry.name, "file")
        if entry.is_symlink():
            # Links to folders may lead in circles.
            return Entry(entry.name, "other", "a link to a folder" if entry.is_dir() else "a broken link")
        return Entry(entry.name, "other", "no regular file")


class RemotePlace:
    """Files behind an fsspec URL.

    Args:
        url: any that fsspec knows, also chained.
        storage_options: passed on to fsspec; never shown.

    Raises:
        MissingExtra: the backend is not installed.
        UnusableError: there is no such backend.
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None) -> None:
        fsspec: Any = import_module("fsspec")

        self._prefix = url[: match.end()] if (match := _URL.match(url)) else ""
        protocol = self._prefix.rstrip(":/").lower()
        self._is_web = url.startswith(_WEB)
        try:
            if "::" not in url:
                fsspec.get_filesystem_class(protocol)
            # What was listed before may have changed since.
            fresh = {"use_listings_cache": False} if protocol in EXTRAS else {}
            found: Any = fsspec.url_to_fs(url, **(fresh | dict(storage_options or {})))
        except ImportError as error:
            raise _missing_backend(url, protocol, error) from error
        except ValueError as error:
            raise UnusableError(
                redacted(url), "unknown_protocol", f"can't be opened: {error}.", "Check how the URL begins."
            ) from error
        self._fs: Any = found[0]
        self._fs.invalidate_cache()
        self.path: str = found[1]
        self._chain = url.partition("::")[2] if "::" in url else ""

    def kind(self, path: str) -> Kind:
        try:
            found: str = self._fs.info(path)["type"]
        except FileNotFoundError:
            return "missing"
        except Exception as error:
            raise self._translated(path, error) from error
        return "folder" if found == "directory" else "file"

    def entries(self, path: str) -> list[Entry]:
        try:
            listed: list[dict[str, Any]] = self._fs.ls(path, detail=True)
        except Exception as error:
            raise self._translated(path, error) from error
        found: list[Entry] = []
        for entry in listed:
            whole = cast("str", entry["name"]).rstrip("/")
            name = whole.rpartition("/")[2]
            # A folder made by hand on an object store is an empty object with the folder's own name.
            if name and whole.strip("/") != path.strip("/"):
                found.append(Entry(name, "folder" if entry["type"] == "directory" else "file"))
        return found

    @contextmanager
    def open(self, path: str) -> Generator[BinaryIO]:
        try:
            file: Any = self._fs.open(path, "rb", block_size=_BLOCK_BYTES)
        except Exception as error:
            raise self._translated(path, error) from error
        with file:
            yield cast("BinaryIO", _Guarded(file, lambda error: self._translated(path, error)))

    def shown(self, path: str) -> str:
        return redacted(self.absolute(path))

    def absolute(self, path: str) -> str:
        if self._is_web:
            return path
        if self._chain:
            return f"{self._prefix}{path}::{self._chain}"
        return f"{self._prefix}{path.lstrip('/')}"

    def context(self) -> str:
        return ""

    def _translated(self, path: str, error: Exception) -> Exception:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
            return _unusable(self.shown(path), error)
        # Clients raise many kinds of error for an answer that did not come, and waiting is right for each.
        return StoreUnavailable(f"{self.shown(path)} can't be read for now: {type(error).__name__}: {error}")


def redacted(url: str) -> str:
    """A URL without its user name, password or signature."""
    url = _SECRETS.sub("", url)
    return url.partition("?")[0] if url.startswith(_WEB) else url


def missing(shown: str, context: str) -> UnusableError:
    """What to raise for a path where nothing lies."""
    cure = f"Check the path{f'; {context}' if context else ''}."
    return UnusableError(shown, "missing_file", "there is no such file or folder.", cure)


class _Guarded(io.RawIOBase):
    """A file whose every failure is told as one of ours."""

    def __init__(self, file: BinaryIO, translated: Callable[[Exception], Exception]) -> None:
        self._file = file
        self._translated = translated

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._file.read(size)
        except Exception as error:
            raise self._translated(error) from error

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()


def _missing_backend(url: str, protocol: str, error: ImportError) -> Exception:
    if protocol in EXTRAS:
        return not_installed(protocol, error, needed_by=f"reading {redacted(url)}")
    return UnusableError(
        redacted(url), "missing_backend", f"can't be opened: {error}.", "Install what fsspec needs for it."
    )


def _unusable(shown: str, error: Exception) -> UnusableError:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return UnusableError(shown, "missing_file", "is gone.", "It was there when reading began; submit again.")
        case PermissionError():
            return UnusableError(
                shown,
                "permission_denied",
                "may not be read: permission denied.",
                "Let this user or key read it.",
            )
        case _:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            return UnusableError(shown, "unreadable", f"can't be read: {reason}.", "Check the file and its disk.")
