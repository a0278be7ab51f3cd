"""The profiles as file systems: `training::s3://…` and the like, in anything that speaks fsspec."""

from __future__ import annotations

import builtins
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, cast

import fsspec
from fsspec.implementations.chained import ChainedFileSystem

from ..profiles import BUILT_IN, Access, Choice, Plan
from ..profiles.working_set import Counted
from .backends import file_system
from .caching.opening import StoreCache, cache_for
from .conditions import creating
from .counts import Counts
from .errors import SettingsError
from .explaining import choice_of, plan_of
from .observing import Observing, Reads, is_worth_a_look, observing_for
from .reading.buffers import buffers_of_process
from .reading.file import ObjectFile
from .reading.reader import Reader
from .settings import known_profiles
from .writing.file import TextFile, WrittenFile, compressed
from .writing.pairs import pairs
from .writing.writer import Writer, copy_into, kind_of

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
        "rm", "rm_file", "_rm", "mkdir", "makedirs", "rmdir", "copy", "cp_file", "mv", "touch", "setxattr",
    )
)  # fmt: skip
_UNUSED = frozenset(("chunksize", "max_concurrency", "fill_cache", "cache_type"))
"""Options of other file systems about how to write, which is the profile's matter here."""
_OF_ALL = frozenset(("asynchronous", "loop", "batch_size", "use_listings_cache", "listings_expiry_time", "max_paths"))
"""What libraries ask of any fsspec file system (zarr: asynchronous); it means nothing to one before another."""


class ProfiledFileSystem(ChainedFileSystem):
    """A file system whose reads and writes follow a profile; everything else is the other one's.

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
        self._arguments = {name: value for name, value in values.items() if name not in _OF_ALL}
        self._known = known_profiles() if profile else BUILT_IN
        self._observing: Observing | None = None
        self._ours = threading.RLock()
        self._process = -1
        self._counts: Counts | None = None
        self._plans: dict[tuple[str, tuple[tuple[str, Any], ...], Counted | None], Plan] = {}
        self._connect()
        self._plan_of(self._choice("x"))  # so that a wrong value is told now

    @property
    def fs(self) -> Any:
        """The file system behind."""
        return self._connect()[0]

    @property
    def reader(self) -> Reader:
        """What reads for this process."""
        return self._connect()[1]

    @property
    def writer(self) -> Writer:
        """What writes for this process."""
        return self._connect()[2]

    def explain(self, path: str) -> tuple[Choice, Plan]:
        """Which profile counts for a path, with which values, and why."""
        path = self._strip(path)
        choice = self._choice(path)
        return choice, self._plan_of(choice, path)

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
            if observing := self._watched(path):
                observing.tell("open", path, size=file.size, tag=file.version.tag)
                reads = Reads(observing, path, file.size)
                file.on_read, file.on_close = partial(self._seen, reads), reads.close
            return file
        path = self._strip(path)
        if mode in ("wb", "xb"):
            size, is_new = kwargs.pop("size", None), mode == "xb"
            self._wrote("write", path)
            return self._written(path, is_new=is_new, is_held=not autocommit, size_bytes=size, settings=kwargs)
        self.reader.forget()
        self._wrote("append" if "a" in mode else "write", path)
        if not autocommit:
            kwargs["autocommit"] = False
        return self.fs.open(path, mode, **kwargs)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """A range of an object, or all of it."""
        path = self._strip(path)
        data = self.reader.get(path, self._access(path), start, end)
        self._was_got(path, start, end, data)
        return data

    def cat(self, path: Any, recursive: bool = False, on_error: str = "raise", **kwargs: Any) -> Any:
        """One object's bytes, or those of many by path, fetched at once."""
        paths = cast("list[str]", self.fs.expand_path(self._strip_all(path), recursive=recursive))
        if isinstance(path, str) and paths == [self._strip(path)]:
            return self.cat_file(path)
        found = self.reader.get_each(paths, self._access)
        for each, data in found.items():
            if isinstance(data, bytes):
                self._was_got(each, None, None, data)
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
        found, now_s = self.reader.get_ranges(ranges, self._access, max_gap), time.time()
        for (path, begin, stop), data in zip(ranges, found, strict=True):
            observing = self._watched(path)
            if observing is not None and begin is not None and stop is not None and isinstance(data, bytes):
                observing.tell("vector", path, start=begin, length=len(data), now_s=now_s)
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

    # -- writing -----------------------------------------------------------------------------------------

    def open(
        self,
        path: str,
        mode: str = "rb",
        block_size: Any = None,
        cache_options: Any = None,
        compression: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """A file; one that is written is visible as a whole once it is closed, and not when its block fails.

        Args:
            mode: as that of the built-in `open`; "x" writes an object only if there is none of that name.
            compression: of what is read or written, as fsspec knows it; "infer" goes by the name.
        """
        others: dict[str, Any] = {"block_size": block_size, "cache_options": cache_options, **kwargs}
        if mode.replace("t", "").replace("b", "") not in ("w", "x"):
            untyped: Any = super()
            return untyped.open(path, mode, compression=compression, **others)
        text = {name: others.pop(name) for name in ("encoding", "errors", "newline") if name in others}
        untyped = super()
        file: Any = untyped.open(path, f"{mode[0]}b", **others)
        if compression is not None:
            file = compressed(file, self._strip(path), compression)
        return file if "b" in mode else TextFile(file, **text)

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **kwargs: Any) -> None:
        """Write an object from bytes; `mode="create"` only if there is none of that name."""
        path = self._strip(path)
        is_new = mode == "create"
        if not (self.writer.is_ours or self._intrans):
            self.reader.forget()
            with creating(path, is_new=is_new):
                self.fs.pipe_file(path, value, mode=mode, **kwargs)
            return
        self._wrote("write", path)
        self._pipe(path, value, is_new=is_new, settings=kwargs)

    def pipe(self, path: Any, value: Any = None, **kwargs: Any) -> None:
        """Write one object from bytes; or many, from a mapping of path to bytes, at once."""
        if isinstance(path, str):
            self.pipe_file(path, value, **kwargs)
        elif not isinstance(path, Mapping):
            raise TypeError(f"pipe() takes a path or a mapping of paths to bytes, not {type(path).__name__}")
        elif self._intrans or not self.writer.is_ours:
            for each, data in cast("Mapping[str, Any]", path).items():
                self.pipe_file(each, data, **kwargs)
        else:
            many = {self._strip(each): data for each, data in cast("Mapping[str, Any]", path).items()}
            puts = {
                each: (memoryview(data).nbytes, partial(self.pipe_file, each, data, **kwargs))
                for each, data in many.items()
            }
            self.writer.put_each(puts, self._access)

    def put_file(self, lpath: Any, rpath: str, callback: Any = None, mode: str = "overwrite", **kwargs: Any) -> None:
        """Copy a local file to an object; `mode="create"` only if there is none of that name."""
        rpath = self._strip(rpath)
        if os.path.isdir(lpath):
            self.fs.makedirs(rpath, exist_ok=True)
            return
        if not (self.writer.is_ours or self._intrans):
            self.reader.forget()
            more = {} if callback is None else {"callback": callback}
            with creating(rpath, is_new=mode == "create"):
                self.fs.put_file(lpath, rpath, mode=mode, **more, **kwargs)
            return
        size = os.path.getsize(lpath)
        if callback is not None:
            callback.set_size(size)
        if self._makes_folders:
            self.fs.makedirs(rpath.rpartition("/")[0], exist_ok=True)
        self._wrote("write", rpath)
        settings = {**(kind_of(lpath) if self._is_s3 else {}), **kwargs}
        is_held = self._intrans
        with self._written(rpath, is_new=mode == "create", is_held=is_held, size_bytes=size, settings=settings) as file:
            self._in_transaction(file)
            copy_into(file, str(lpath), callback.relative_update if callback is not None else lambda _: None)

    def put(
        self,
        lpath: Any,
        rpath: Any,
        recursive: bool = False,
        callback: Any = None,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Copy local files to objects; folders with all below them if it is `recursive`."""
        if not (self.writer.is_ours or self._intrans):
            self.reader.forget()
            more = {} if callback is None else {"callback": callback}
            self.fs.put(lpath, rpath, recursive=recursive, maxdepth=maxdepth, **more, **kwargs)
            return
        isdir: Any = self.fs.isdir
        found = pairs(lpath, rpath, recursive=recursive, maxdepth=maxdepth, strip=self._strip, isdir=isdir)
        if callback is not None:
            callback.set_size(len(found))

        def one(local: str, remote: str) -> None:
            if callback is None:
                self.put_file(local, remote, **kwargs)
                return
            with callback.branched(local, remote) as child:
                self.put_file(local, remote, callback=child, **kwargs)
            callback.relative_update(1)

        for local, remote in found:
            if self._intrans or os.path.isdir(local):
                one(local, remote)
        if not self._intrans:
            files = [(local, self._strip(remote)) for local, remote in found if not os.path.isdir(local)]
            puts = {remote: (os.path.getsize(local), partial(one, local, remote)) for local, remote in files}
            self.writer.put_each(puts, self._access)

    def memory(self, path: str, *, is_whole: bool = False) -> ObjectMemory:
        """An object's bytes as memory that this machine's processes share, as far as its cache has room.

        Args:
            is_whole: all of it will be wanted, so what is here is looked at while the store is asked for its content.
        """
        from .loading.looking import looking
        from .loading.memory import ObjectMemory

        path = self._strip(path)
        access = self._access(path)
        protocol = self.fs.protocol if isinstance(self.fs.protocol, str) else self.fs.protocol[0]
        file = Path(path) if protocol in ("file", "local") else None
        cache = cache_for(self.fs, access) if is_whole else None
        with looking(None if cache is None else cache.known(path)) as look:
            source, head = self.reader.first(path, access)
        return ObjectMemory(source, head, self.reader.fetcher, access, file=file, look=look)

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
            ahead_bytes: how much is fetched ahead of the readers at most, and never more than half of the cache; by
                default a twentieth of it, 64 MiB to 1 GiB, and a thirty-second while it is full.
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
            return self._theirs(name)
        if name in _CHANGES:
            self.reader.forget()
            return self._theirs(name)
        return super().__getattribute__(name)

    def _theirs(self, name: str) -> Any:
        """A method of the file system behind, which knows nothing of our prefix before a path."""
        method = getattr(self.fs, name)
        if not callable(method):
            return method

        def called(*args: Any, **kwargs: Any) -> Any:
            return method(*map(self._unprefixed, args), **{key: self._unprefixed(each) for key, each in kwargs.items()})

        return called

    def _unprefixed(self, argument: Any) -> Any:
        if isinstance(argument, str):
            return argument.removeprefix(f"{self.protocol}::")
        if isinstance(argument, builtins.list):
            return [self._unprefixed(each) for each in cast("list[Any]", argument)]
        if isinstance(argument, builtins.dict):
            return {self._unprefixed(key): each for key, each in cast("dict[Any, Any]", argument).items()}
        return argument

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

    def _written(
        self, path: str, *, is_new: bool, is_held: bool, size_bytes: int | None, settings: Mapping[str, Any]
    ) -> Any:
        """A file to write an object to: ours, or the other one's where it has none that could be discarded."""
        self.reader.forget(path)
        known = {name: value for name, value in settings.items() if name not in _UNUSED}
        return self.writer.open(
            path, self._access(path), is_new=is_new, is_held=is_held, size_bytes=size_bytes, settings=known, fs=self
        )

    def _pipe(self, path: str, value: Any, *, is_new: bool, settings: Mapping[str, Any]) -> None:
        size = memoryview(value).nbytes
        with self._written(path, is_new=is_new, is_held=self._intrans, size_bytes=size, settings=settings) as file:
            self._in_transaction(file)
            if isinstance(file, WrittenFile):
                file.write(value, is_all=True)
            else:
                file.write(value)

    def _in_transaction(self, file: Any) -> None:
        if self._intrans:
            transaction: Any = self.transaction
            transaction.files.append(file)

    @property
    def _is_s3(self) -> bool:
        return self._protocol_behind == "s3"

    @property
    def _makes_folders(self) -> bool:
        """Whether a folder has to be made before a file can lie in it."""
        return self._protocol_behind in ("file", "local")

    @property
    def _protocol_behind(self) -> str:
        protocol = self.fs.protocol
        return cast("str", protocol if isinstance(protocol, str) else protocol[0])

    def _strip(self, path: str) -> str:
        return cast("str", self.fs._strip_protocol(self._strip_protocol(path)))

    def _strip_all(self, path: Any) -> Any:
        return self._strip(path) if isinstance(path, str) else [self._strip(each) for each in path]

    def _choice(self, path: str) -> Choice:
        choice = choice_of(path, self._known, self._profile)
        if choice.source != "nothing" or self._observing is None:
            return choice
        return self._observing.choice(path) or choice

    def _watched(self, path: str) -> Observing | None:
        """Who watches an object, if what happens to it decides about its profile, since nothing else does."""
        if self._profile != "auto" or choice_of(path, self._known, "auto").source != "nothing":
            return None
        return self._observing

    def _seen(self, reads: Reads, file: ObjectFile, start: int, length: int) -> Access | None:
        """A read of an object that is watched; says which values count from now on, now and then."""
        is_time = is_worth_a_look(file.reads)
        reads.read(start, length, is_told=is_time)
        # The parts of an open file keep their size: one read gets sooner done in small ones.
        return replace(self._access(file.path), part_bytes=file.blocksize) if is_time else None

    def _wrote(self, kind: Literal["write", "append"], path: str) -> None:
        if observing := self._watched(path):
            observing.tell(kind, path)

    def _was_got(self, path: str, start: int | None, end: int | None, data: bytes) -> None:
        """Bytes of an object that was not opened."""
        observing = self._watched(path)
        if observing is None:
            return
        if start is None and end is None:
            observing.tell("whole", path, size=len(data), length=len(data))
        elif start is not None and start >= 0:
            observing.tell("read", path, start=start, length=len(data))

    def _access(self, path: str) -> Access:
        return self._plan_of(self._choice(path), path).access

    def _plan_of(self, choice: Choice, path: str = "") -> Plan:
        counted = self._counts.of(path) if path and self._counts is not None else None
        key = choice.profile.name, tuple((value.name, value.value) for value in choice.values), counted
        plan = self._plans.get(key)
        if plan is None:
            plan = plan_of(choice.profile, self._known, self._arguments, choice.values, counted)
            self._plans[key] = plan
        return plan

    def _connect(self) -> tuple[Any, Reader, Writer]:
        """The file system behind, and what reads and writes there; in a forked child, new ones."""
        if self._process != os.getpid():
            if self._process != -1:
                self._ours = threading.RLock()  # the parent's may be held by a thread that is not here
                if getattr(self._given, "async_impl", False):
                    make, arguments = self._given.__reduce__()  # this one's threads are the parent's
                    self._given = make(*arguments)
            with self._ours:
                fs: Any = self._given if self._given is not None else file_system(*self._target)
                access = self._plan_of(self._choice("x")).access
                buffers, connections = buffers_of_process(access.memory_bytes), access.connections
                reader = Reader(fs, buffers, connections=connections, cache=_caches(fs))
                self._parts = fs, reader, Writer(fs, reader.fetcher, reader.forget)
                self._counts = Counts(fs)
                if self._profile == "auto" and self._observing is None:
                    self._observing = observing_for(fs, self._known)
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


def _raise_first(results: Any) -> None:
    for result in results:
        if isinstance(result, Exception):
            raise result
