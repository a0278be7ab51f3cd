"""The profiles as file systems: `training::s3://…` and the like, in anything that speaks fsspec."""

from __future__ import annotations

import builtins
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import fsspec
from fsspec.implementations.chained import ChainedFileSystem

from ..profiles import BUILT_IN, Access, Choice, Plan, Profile
from .caching.opening import StoreCache, cache_for
from .errors import MissingExtra, SettingsError
from .explaining import choice_of, plan_of
from .observing import Observing
from .reading.buffers import Buffers
from .reading.file import ObjectFile
from .reading.reader import Reader
from .settings import known_profiles

if TYPE_CHECKING:
    from .loading.memory import ObjectMemory
    from .loading.prefetch import Prefetch

Item = TypeVar("Item")
_LOOKS = frozenset(
    (
        "info", "ls", "find", "glob", "walk", "exists", "isfile", "isdir", "du", "size", "sizes", "disk_usage",
        "created", "modified", "checksum", "ukey", "sign", "url", "expand_path", "invalidate_cache", "metadata",
        "getxattr",
    )
)  # fmt: skip
_CHANGES = frozenset(
    (
        "rm", "rm_file", "_rm", "mkdir", "makedirs", "rmdir", "copy", "cp_file", "mv", "touch", "put", "put_file",
        "pipe", "pipe_file", "setxattr", "transaction", "start_transaction", "end_transaction",
    )
)  # fmt: skip
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


class ProfiledFileSystem(ChainedFileSystem):
    """A file system whose reads follow a profile; everything else is the other one's.

    Args:
        fs: the file system behind; or its protocol and options, as fsspec passes them on.
        profile: another profile than the one that the prefix names, e.g. one of your own from holdshort.toml.
        values: values of the profile that are to be others, by name (see holdshort.profiles.Access).

    Raises:
        SettingsError: no such profile or value.
        MissingExtra: the file system behind is not installed.
    """

    protocol: ClassVar[str] = "auto"
    cachable = True
    _strip_tokenize_options = ("fo",)

    def __init__(
        self,
        fs: Any = None,
        fo: str | None = None,
        target_protocol: str | None = None,
        target_options: Mapping[str, Any] | None = None,
        profile: str | None = None,
        **values: Any,
    ) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        if fs is None and not target_protocol:
            raise SettingsError(
                f"{self.protocol}:: needs a file system behind it, as in {self.protocol}::s3://bucket/key."
            )
        self._target = (target_protocol or "", dict(target_options or {}))
        self._given: Any = fs
        self._profile = profile or self.protocol
        self._arguments = values
        self._known = known_profiles() if profile else BUILT_IN
        self._observing = Observing(self._known)
        self._ours = threading.RLock()
        self._process = -1
        self._plans: dict[str, Plan] = {}
        self._connect()
        self._plan_of(self._choice("x").profile)  # so that a wrong value is told now

    @property
    def fs(self) -> Any:
        """The file system behind."""
        return self._connect()[0]

    @property
    def reader(self) -> Reader:
        """What reads for this process."""
        return self._connect()[1]

    def explain(self, path: str) -> tuple[Choice, Plan]:
        """Which profile counts for a path, with which values, and why."""
        choice = self._choice(self._strip(path))
        return choice, self._plan_of(choice.profile)

    # -- reading -----------------------------------------------------------------------------------------

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: Any = None,
        autocommit: bool = True,
        cache_options: Any = None,
        **kwargs: Any,
    ) -> Any:
        if mode == "rb":  # block sizes and caches are the profile's matter
            path = self._strip(path)
            file = self.reader.open(path, self._access(path), self)
            if self._is_observed(path):
                self._observing.tell("open", path, size=file.size)
                file.on_read = self._seen
            return file
        self.reader.forget()
        self._observing.tell("append" if "a" in mode else "write", self._strip(path))
        if not autocommit:
            kwargs["autocommit"] = False
        return self.fs.open(path, mode, **kwargs)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """A range of an object, or all of it."""
        path = self._strip(path)
        return self.reader.get(path, self._access(path), start, end)

    def cat(self, path: Any, recursive: bool = False, on_error: str = "raise", **kwargs: Any) -> Any:
        """One object's bytes, or those of many by path, fetched at once."""
        paths = cast("list[str]", self.fs.expand_path(self._strip_all(path), recursive=recursive))
        if isinstance(path, str) and paths == [self._strip(path)]:
            return self.cat_file(path)
        found = self.reader.get_each(paths, self._access)
        if on_error == "raise":
            _raise_first(found.values())
        return {each: found[each] for each in paths if on_error != "omit" or isinstance(found[each], bytes)}

    def cat_ranges(
        self,
        paths: Sequence[str],
        starts: int | Sequence[int | None] | None,
        ends: int | Sequence[int | None] | None,
        max_gap: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> builtins.list[Any]:
        """Many ranges, fetched at once; those of one object that lie close together by one request."""
        begins = starts if isinstance(starts, Sequence) else [starts] * len(paths)
        stops = ends if isinstance(ends, Sequence) else [ends] * len(paths)
        if not len(paths) == len(begins) == len(stops):
            raise ValueError(f"there are {len(paths)} paths, {len(begins)} starts and {len(stops)} ends")
        ranges = [(self._strip(path), begin, stop) for path, begin, stop in zip(paths, begins, stops, strict=True)]
        for path, begin, stop in ranges:
            if begin is not None and stop is not None and self._is_observed(path):
                self._observing.tell("vector", path, start=begin, length=max(0, stop - begin))
        found = self.reader.get_ranges(ranges, self._access, max_gap)
        if on_error == "raise":
            _raise_first(found)
        return found

    def get_file(self, rpath: str, lpath: Any = None, callback: Any = None, outfile: Any = None, **kwargs: Any) -> None:
        """Copy an object to a local file."""
        rpath = self._strip(rpath)
        if outfile is None and self.fs.isdir(rpath):
            os.makedirs(lpath, exist_ok=True)
            return
        access = self._access(rpath)
        with self.reader.open(rpath, access) as source:
            if callback is not None:
                callback.set_size(source.size)
            target = outfile or builtins.open(lpath, "wb")  # noqa: SIM115 - closed below, if it is ours
            try:
                room = memoryview(bytearray(min(access.part_bytes, max(1, source.size))))
                while got := source.readinto(room):
                    target.write(room[:got])
                    if callback is not None:
                        callback.relative_update(got)
            finally:
                if outfile is None:
                    target.close()

    def memory(self, path: str) -> ObjectMemory:
        """An object's bytes as memory that this machine's processes share, as far as its cache has room."""
        from .loading.memory import ObjectMemory

        path = self._strip(path)
        access = self._access(path)
        protocol = self.fs.protocol if isinstance(self.fs.protocol, str) else self.fs.protocol[0]
        file = Path(path) if protocol in ("file", "local") else None
        return ObjectMemory(*self.reader.first(path, access), self.reader.fetcher, access, file=file)

    def prefetch(
        self,
        items: Iterable[Item],
        *,
        path: Callable[[Item], str] | None = None,
        ahead_bytes: int | None = None,
        ahead_objects: int | None = None,
    ) -> Prefetch[Item]:
        """Bring objects into the cache in the order in which they will be read; see holdshort.storage.Prefetch.

        Args:
            items: paths; or a sampler, or anything else that yields what `path` makes paths of.
            ahead_bytes: how far ahead of the readers at most; by default a twentieth of the cache, 64 MiB to 1 GiB, and
                never more than half of it.
            ahead_objects: the same in objects; by default 512.
        """
        from .loading.prefetch import Prefetch

        return Prefetch(self, items, path=path, ahead_bytes=ahead_bytes, ahead_objects=ahead_objects)

    def stripped(self, path: str) -> str:
        """A path, or URL, as the file system behind names it."""
        return self._strip(path)

    # -- the other one's ---------------------------------------------------------------------------------

    def __getattribute__(self, name: str) -> Any:
        if name in _LOOKS:
            return getattr(self.fs, name)
        if name in _CHANGES:
            self.reader.forget()
            return getattr(self.fs, name)
        return super().__getattribute__(name)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, builtins.list):
            return [cls._strip_protocol(each) for each in cast("list[str]", path)]
        text = cast("str", os.fspath(path))
        return text.removeprefix(f"{cls.protocol}::").removeprefix(f"{cls.protocol}://")

    def unstrip_protocol(self, name: str) -> str:
        """The whole URL of a path."""
        return f"{self.protocol}::{self.fs.unstrip_protocol(name)}"

    # -- inside ------------------------------------------------------------------------------------------

    def _strip(self, path: str) -> str:
        return cast("str", self.fs._strip_protocol(self._strip_protocol(path)))

    def _strip_all(self, path: Any) -> Any:
        return self._strip(path) if isinstance(path, str) else [self._strip(each) for each in path]

    def _choice(self, path: str) -> Choice:
        choice = choice_of(path, self._known, self._profile)
        return choice if choice.source != "nothing" else self._observing.choice(path) or choice

    def _is_observed(self, path: str) -> bool:
        """Whether what happens decides about the profile, since nothing else does."""
        return self._profile == "auto" and choice_of(path, self._known, "auto").source == "nothing"

    def _seen(self, file: ObjectFile, start: int, length: int) -> Access | None:
        """A read of an object that is observed; says which values count from now on, now and then."""
        self._observing.tell("read", file.path, size=file.size, start=start, length=length)
        is_time = file.reads & (file.reads - 1) == 0  # looking at all that was seen takes a while
        return self._access(file.path) if is_time else None

    def _access(self, path: str) -> Access:
        return self._plan_of(self._choice(path).profile).access

    def _plan_of(self, profile: Profile) -> Plan:
        plan = self._plans.get(profile.name)
        if plan is None:
            plan = self._plans[profile.name] = plan_of(profile, self._known, self._arguments)
        return plan

    def _connect(self) -> tuple[Any, Reader]:
        """The file system behind and what reads from it; in a forked child, new ones."""
        if self._process != os.getpid():
            if self._process != -1:
                self._ours = threading.RLock()  # the parent's may be held by a thread that is not here
                self._observing.after_fork()
                if getattr(self._given, "async_impl", False):
                    make, arguments = self._given.__reduce__()  # this one's threads are the parent's
                    self._given = make(*arguments)
            with self._ours:
                fs: Any = self._given if self._given is not None else _file_system(*self._target)
                access = self._plan_of(self._choice("x").profile).access
                buffers, connections = _buffers(access.memory_bytes), access.connections
                reader = Reader(fs, buffers, connections=connections, cache=_caches(fs))
                self._parts = fs, reader
                self._process = os.getpid()
        return self._parts


class TrainingFileSystem(ProfiledFileSystem):
    """`training::`: data sets."""

    protocol: ClassVar[str] = "training"


class ServingFileSystem(ProfiledFileSystem):
    """`serving::`: weights."""

    protocol: ClassVar[str] = "serving"


class CheckpointFileSystem(ProfiledFileSystem):
    """`checkpoint::`: what is written once."""

    protocol: ClassVar[str] = "checkpoint"


class AutoFileSystem(ProfiledFileSystem):
    """`auto::`: whichever profile fits the path."""

    protocol: ClassVar[str] = "auto"


def profiled(url: str, profile: str, options: Mapping[str, Any]) -> tuple[ProfiledFileSystem, str]:
    """The file system of a URL, and its path there; where the URL names no profile, this one counts.

    Raises:
        SettingsError: the URL begins with something else than a profile.
    """
    untyped: Any = fsspec
    chained = url if "::" in url else f"{profile}::{url if '://' in url else f'file://{url}'}"
    fs, path = untyped.url_to_fs(chained, **options)
    if not isinstance(fs, ProfiledFileSystem):
        raise SettingsError(f"{url} begins with something else than a profile; write {profile}::s3://… or s3://…")
    return fs, path


def _caches(fs: Any) -> Callable[[Access], StoreCache | None]:
    """The cache that an access to a file system asks for; to find out what can be cached where takes a while."""
    known: dict[Access, StoreCache] = {}

    def found(access: Access) -> StoreCache | None:
        cache = known.get(access) or cache_for(fs, access)
        if cache is not None:
            known[access] = cache
        return cache

    return found


_of_process: dict[int, Buffers] = {}


def _buffers(most_bytes: int) -> Buffers:
    """The one budget of this process, of the size that was asked for first."""
    found = _of_process.get(os.getpid())
    if found is None:
        _of_process.clear()
        found = _of_process[os.getpid()] = Buffers(most_bytes)
    return found


def _file_system(protocol: str, options: Mapping[str, Any]) -> Any:
    untyped: Any = fsspec
    try:
        return untyped.filesystem(protocol, **options)
    except ImportError as error:
        if protocol not in _EXTRAS:
            raise
        raise MissingExtra(f"{protocol}://", extra=_EXTRAS[protocol], module=error.name or protocol) from error


def _raise_first(results: Any) -> None:
    for result in results:
        if isinstance(result, Exception):
            raise result
