"""A store behind fsspec: S3, Google Cloud Storage, or memory (one process, for tests)."""

from __future__ import annotations

import builtins
import hashlib
import os
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, cast

from ..profiles import BUILT_IN, CHECKPOINT, Access
from .backends import EXTRAS, file_system
from .conditions import is_precondition
from .errors import Interrupted, ObjectNotFound, StoreRefused, StoreUnavailable
from .flow import Flow
from .overwriting import is_unknown, read_tagged, replace_if
from .parted.s3 import S3Parts
from .ranges import read_object
from .store import Capabilities, Located, check_path, without_overwrite
from .writing.in_memory import one_at_a_time

if TYPE_CHECKING:
    from .reading.reader import Reader
    from .writing.writer import Writer

# File systems whose mode="create" is one conditional request (or, for memory, done under a lock here).
# fsspec's own default for others looks first and writes then, which two writers can slip through.
_ATOMIC = {*EXTRAS, "memory"}


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
        self.capabilities = Capabilities()
        self._protocol = protocol
        self._url = f"{protocol}://{rest.rstrip('/')}"
        self._root = rest.strip("/")
        self._is_memory = protocol == "memory"
        self._lock = one_at_a_time if self._is_memory else nullcontext()
        fresh = {} if self._is_memory else {"use_listings_cache": False, "skip_instance_cache": True}
        self._options = dict(storage_options or {})
        options = {**fresh, **self._options}
        self._fs = file_system(protocol, options, needed_by=f"a store on {protocol}://")
        self._making = threading.Lock()
        self._moving: tuple[int, tuple[Reader, Writer, Access]] | None = None
        self._parted: S3Parts | None = None

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
                if is_precondition(error):
                    return False
                raise
        return True

    def replace(self, path: str, data: bytes) -> None:
        target = self._at(path)
        with self._acting(path), self._lock:
            self._fs.pipe_file(target, data)

    def read_tagged(self, path: str) -> tuple[bytes, str]:
        self._check_overwrite()
        target = self._at(path)
        with self._reading(path), self._lock:
            if self._is_memory:
                data = cast("bytes", self._fs.cat_file(target))
                return data, _tag(data)
            return read_tagged(self._fs, self._protocol, target)

    def replace_if(self, path: str, data: bytes, tag: str) -> bool:
        self._check_overwrite()
        target = self._at(path)
        with self._acting(path), self._lock:
            try:
                if self._is_memory:
                    if _tag(self._fs.cat_file(target)) != tag:
                        return False
                    self._fs.pipe_file(target, data)
                else:
                    replace_if(self._fs, self._protocol, target, data, tag)
            except (FileNotFoundError, FileExistsError):  # it is gone; or, as gcsfs says it, another one
                return False
            except Exception as error:
                if is_precondition(error):
                    return False
                if is_unknown(error):
                    raise without_overwrite(self._url) from error
                raise
        return True

    def read(self, path: str, *, first: int | None = None) -> bytes:
        target = self._at(path)
        with self._reading(path), self._lock:
            if first is None:
                return cast("bytes", self._fs.cat_file(target))
            try:
                return cast("bytes", self._fs.cat_file(target, start=0, end=first))
            except Exception as error:
                # s3fs makes an OSError of it, gcsfs its own HttpError.
                if "range" in str(error) and not self._fs.info(target)["size"]:
                    return b""  # an empty object has no first bytes
                raise

    def upload(self, path: str, parts: Iterable[bytes]) -> None:
        target = self._at(path)
        with self._acting(path):
            _, writer, access = self._ways()
            file = writer.open(target, access)
        with file:
            # What the parts themselves raise passes as it is.
            for part in parts:
                with self._acting(path):
                    file.write(part)
            with self._acting(path):
                file.close()

    def read_parts(self, path: str, part_bytes: int = 8 * 2**20) -> Iterator[bytes]:
        target = self._at(path)
        with self._reading(path):
            reader, _, access = self._ways()
            file = reader.open(target, access)
        with file:
            while True:
                with self._reading(path):
                    part = file.read(part_bytes)
                if not part:
                    return
                yield part

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

    def located(self, path: str) -> Located | None:
        return None if self._is_memory else Located(self._protocol, self._at(path), self._options)

    @property
    def parted(self) -> S3Parts | None:
        if self._parted is None and self._url.startswith(("s3://", "s3a://")):
            self._parted = S3Parts(self._fs, self._root, self._url)
        return self._parted

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

    def _ways(self) -> tuple[Reader, Writer, Access]:
        """What moves large objects in this process; in a forked child, others than its parent's."""
        from .explaining import plan_of
        from .reading.buffers import buffers_of_process
        from .reading.reader import Reader
        from .writing.writer import Writer

        with self._making:
            if self._moving is None or self._moving[0] != os.getpid():
                access = plan_of(CHECKPOINT, BUILT_IN).access
                reader = Reader(self._fs, buffers_of_process(access.memory_bytes), connections=access.connections)
                self._moving = (os.getpid(), (reader, Writer(self._fs, reader.fetcher), access))
            return self._moving[1]

    def _check_overwrite(self) -> None:
        if not self.capabilities.conditional_overwrite:
            raise without_overwrite(self._url)

    def _at(self, path: str) -> str:
        return f"{self._root}/{check_path(path)}"

    @contextmanager
    def _acting(self, path: str) -> Generator[None]:
        try:
            yield
        except (Interrupted, ObjectNotFound, StoreUnavailable, StoreRefused):
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
            except (FileNotFoundError, IsADirectoryError) as error:
                raise ObjectNotFound(f"{self._url}/{path} does not exist") from error


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
