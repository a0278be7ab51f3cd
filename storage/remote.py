"""A store behind fsspec: S3, Google Cloud Storage, or memory (one process, for tests)."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, cast

from .errors import Interrupted, MissingExtra, ObjectNotFound, StoreRefused, StoreUnavailable
from .flow import Flow
from .parted.s3 import S3Parts
from .ranges import read_object
from .store import check_path

# File systems whose mode="create" is one conditional request (or, for memory, done under a lock here).
# fsspec's own default for others looks first and writes then, which two writers can slip through.
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_ATOMIC = {*_EXTRAS, "memory"}

_memory_lock = threading.Lock()


class RemoteStore:
    """Objects behind an fsspec file system that can create exclusively.

    Args:
        url: e.g. "s3://bucket/holdshort".
        storage_options: passed to the file system (endpoint, credentials …); never shown.
    """

    def __init__(self, url: str, *, storage_options: Mapping[str, Any] | None = None) -> None:
        protocol, _, rest = url.partition("://")
        if protocol not in _ATOMIC:
            raise StoreRefused(
                f"A store on {protocol}:// can't promise that an object is created only once, which "
                f"exactly-once commits rest on. Use a local folder, s3:// or gs://."
            )
        self._url = f"{protocol}://{rest.rstrip('/')}"
        self._root = rest.strip("/")
        self._is_memory = protocol == "memory"
        self._lock = _memory_lock if self._is_memory else nullcontext()
        self._fs = _file_system(protocol, dict(storage_options or {}))

    @property
    def url(self) -> str:
        return self._url

    def create(self, path: str, data: bytes) -> bool:
        target = self._at(path)
        with self._acting(path):
            try:
                if self._is_memory:
                    with self._lock:
                        if self._fs.exists(target):
                            return False
                        self._fs.pipe_file(target, data)
                else:
                    self._fs.pipe_file(target, data, mode="create")
            except FileExistsError:
                return False
            except Exception as error:
                if _is_precondition(error):
                    return False
                raise
        return True

    def replace(self, path: str, data: bytes) -> None:
        target = self._at(path)
        with self._acting(path), self._lock:
            self._fs.pipe_file(target, data)

    def read(self, path: str, *, first: int | None = None) -> bytes:
        target = self._at(path)
        with self._reading(path), self._lock:
            if first is None:
                return cast("bytes", self._fs.cat_file(target))
            try:
                return cast("bytes", self._fs.cat_file(target, start=0, end=first))
            except OSError as error:
                if "range" in str(error) and not self._fs.info(target)["size"]:
                    return b""  # of an empty object S3 has no first bytes
                raise

    def upload(self, path: str, parts: Iterable[bytes]) -> None:
        if self._is_memory:
            # Files in memory are there as soon as they are opened.
            self.replace(path, b"".join(parts))
            return
        target = self._at(path)
        with self._acting(path):
            file = self._fs.open(target, "wb")
        try:
            # What the parts themselves raise passes as it is.
            for part in parts:
                with self._acting(path):
                    file.write(part)
        except BaseException:
            # Closing would commit what is there: drop it instead.
            with suppress(Exception):
                file.discard()
            file.closed = True
            raise
        with self._acting(path):
            file.close()

    def read_parts(self, path: str, part_bytes: int = 8 * 2**20) -> Iterator[bytes]:
        target, start = self._at(path), 0
        with self._reading(path):
            about: dict[str, Any] = self._fs.info(target)
            if about["type"] != "file":
                raise FileNotFoundError
            size = int(about["size"])
        while start < size:
            with self._reading(path):
                part = self._fs.cat_file(target, start=start, end=min(size, start + part_bytes))
            yield cast("bytes", part)
            start += part_bytes

    def read_range(self, path: str, start: int, end: int, flow: Flow) -> bytes:
        target = self._at(path)
        with self._reading(path), self._lock:
            data = read_object(self._fs, target, start, end, flow)
        if len(data) < end - start:
            if (size := self.size(path)) is None or size < end:
                raise ObjectNotFound(f"{self._url}/{path} ends at byte {size or 0}, before byte {end}")
            raise StoreUnavailable(f"The store {self._url} sent {len(data)} of {end - start} bytes of {path}")
        return data

    def size(self, path: str) -> int | None:
        target = self._at(path)
        try:
            with self._reading(path), self._lock:
                self._fs.invalidate_cache(target.rpartition("/")[0])
                about: dict[str, Any] = self._fs.info(target)
        except ObjectNotFound:
            return None
        return int(about["size"]) if about["type"] == "file" else None

    @property
    def parted(self) -> S3Parts | None:
        return S3Parts(self._fs, self._root, self._url) if self._url.startswith(("s3://", "s3a://")) else None

    def list(self, folder: str) -> builtins.list[str]:
        base = self._at(folder) if folder else self._root
        try:
            with self._reading(folder), self._lock:
                found: list[dict[str, Any]] = self._fs.ls(base, detail=True, refresh=True)
        except ObjectNotFound:
            return []
        names: list[str] = []
        for entry in found:
            path = cast("str", entry["name"]).strip("/")
            name = path.rpartition("/")[2]
            if path != base.strip("/") and name:
                names.append(f"{name}/" if entry["type"] == "directory" else name)
        return sorted(names)

    def delete(self, path: str) -> None:
        target = self._at(path)
        with suppress(ObjectNotFound), self._reading(path), self._lock:
            self._fs.rm_file(target)

    def delete_folder(self, folder: str) -> None:
        target = self._at(folder)
        with suppress(ObjectNotFound), self._reading(folder), self._lock:
            self._fs.rm(target, recursive=True)

    def _at(self, path: str) -> str:
        return f"{self._root}/{check_path(path)}"

    @contextmanager
    def _acting(self, path: str) -> Generator[None]:
        try:
            yield
        except (Interrupted, ObjectNotFound, StoreUnavailable):
            raise
        except Exception as error:
            # Clients raise many kinds of error for an answer that did not come; none of them tells a caller
            # more than "not now", and waiting is what is right for each.
            what = f"{type(error).__name__}: {error}"
            raise StoreUnavailable(f"The store {self._url} does not answer at {path}: {what}") from error

    @contextmanager
    def _reading(self, path: str) -> Generator[None]:
        with self._acting(path):
            try:
                yield
            except FileNotFoundError as error:
                raise ObjectNotFound(f"{self._url}/{path} does not exist") from error


def _is_precondition(error: Exception) -> bool:
    # s3fs turns "412 Precondition Failed" into OSError(EINVAL), gcsfs raises its own HttpError.
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause).lower()
        if "pre-condition" in text or "preconditionfailed" in text or "conditionnotmet" in text:
            return True
        if 412 in (getattr(cause, "code", None), getattr(cause, "status", None)):
            return True
        cause = cause.__cause__
    return False


def _file_system(protocol: str, options: dict[str, Any]) -> Any:
    import fsspec

    if protocol != "memory":
        options = {"use_listings_cache": False, "skip_instance_cache": True, **options}
    try:
        return fsspec.filesystem(protocol, **options)  # pyright: ignore[reportUnknownMemberType]
    except ImportError as error:
        raise MissingExtra(
            f"a store on {protocol}://", extra=_EXTRAS[protocol], module=error.name or protocol
        ) from error
