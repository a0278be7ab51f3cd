"""The cache's folder: which objects are there, how much room they take, and what leaves.

objects/ab/<key>.object     an object's blocks, see layout.py
versions/ab/<key>           what an object was when the store was asked last, and when that was
used                        how many bytes of blocks there are, as far as was counted
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import secrets
import struct
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import orjson

from ..reading.origin import Version
from .cached import CachedObject
from .eviction import Resident, victims
from .layout import BLOCK_BYTES, HEADER_BYTES, USE_AT, Subject, Use, subject_of
from .locks import RangeLock

log = logging.getLogger(__name__)

_SUFFIX = ".object"
_KEPT_OPEN = 256
_USED = struct.Struct("<Qd")
_PATIENCE_S = 2.0
_FULL_S = 5.0
_ASKING_S = 5.0
_COUNT_S = 3600.0
_BEGUN_S, _KNOWN_S = 3600.0, 30 * 86400.0
_EVICTING_AT, _CHANGING_AT, _COUNTING_AT, _ASKING_AT = 2**40, 2**41, 2**42, 2**50
_ROOM_SHARE = 0.02
"""As much of the budget becomes free at once, so that looking for what may leave is rare."""
_PASSING = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.EMFILE, errno.ENFILE, errno.ENOENT,
)  # fmt: skip
_TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# What lies here can be fetched again.\n"
"""https://bford.info/cachedir/: backups leave such folders out."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An object in the cache, for people and for choosing what leaves."""

    key: str
    subject: Subject
    held_bytes: int
    use: Use

    @property
    def group(self) -> str:
        """Its store and folder."""
        return _group(self.subject)


class CacheFolder:
    """The objects under a folder. Any thread and process may use it at once.

    Args:
        most_bytes: what the objects' blocks may take; fewer where the disk gets full.
        keep_free: the part of the disk that is left free for others.
    """

    def __init__(self, folder: Path, most_bytes: int, *, keep_free: float = 0.1) -> None:
        self.folder = folder
        self.most_bytes = most_bytes
        self._keep_free = keep_free
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        # More at once than cores would only keep each other, and the readers, from the processor.
        self._writers = threading.BoundedSemaphore(len(os.sched_getaffinity(0)))
        self._open: OrderedDict[str, CachedObject] = OrderedDict()
        self._refused: dict[str, float] = {}
        self._off_until = 0.0
        (folder / "objects").mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "versions").mkdir(mode=0o700, exist_ok=True)
        self._used_fd = os.open(folder / "used", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # By its descriptor, since somebody may remove the folder; then it counts for this process alone.
        self._used = Path(f"/proc/self/fd/{self._used_fd}")
        weakref.finalize(self, os.close, self._used_fd)
        if not (folder / "CACHEDIR.TAG").exists():
            (folder / "CACHEDIR.TAG").write_bytes(_TAG)

    # -- objects -----------------------------------------------------------------------------------------

    def object(self, subject: Subject, *, is_use: bool = True) -> CachedObject | None:
        """The object's file, made if there is none; None if it can't be cached.

        Args:
            is_use: whether somebody is about to read it.
        """
        key = _key(subject)
        with self._lock:
            found = self._open.get(key)
            if found is not None and found.is_current:
                self._open.move_to_end(key)
                if is_use:
                    found.used(time.time())
                return found
            try:
                found = self._find(key, subject, is_use)
                # Whoever fetches ahead makes room once it is known what is lacking.
                if found is None and (not is_use or self._reserve(subject, min(subject.size, BLOCK_BYTES))):
                    found = self._make(key, subject, is_use)
            except OSError as error:
                self._failed(error)
                return None
            except ValueError as error:
                log.info("%s", error)
                return None
            if found is None:
                return None
            self._open[key] = found
            while len(self._open) > _KEPT_OPEN:
                self._open.popitem(last=False)
            return found

    def find(self, subject: Subject) -> CachedObject | None:
        """The object's file, if there is one."""
        found = CachedObject.open(self.path_of(_key(subject)))
        return found if found is not None and found.subject == subject else None

    def keep(self, cached: CachedObject, start: int, data: memoryview, *, has_room: bool = False) -> bool:
        """Write whole blocks of an object, as far as there is room for them; whether all are there now.

        A full disk is told once, and is no error.

        Args:
            has_room: `make_room` has made it.
        """
        if time.monotonic() < self._off_until:
            return False
        with self._writers:
            room = len(data)
            if not has_room and not self._reserve(cached.subject, room):
                room = self._left_bytes() // BLOCK_BYTES * BLOCK_BYTES
                if not 0 < room < len(data):
                    return False
            lock, counted = RangeLock(self._used, _CHANGING_AT, shared=True), 0
            try:
                # Counted before it is written: a count is too high after a kill, never too low.
                if lock.acquire(_PATIENCE_S) and self._add(room, within=self._budget()):
                    counted = room
                    cached.write(start, data[:room])
                    return room == len(data)
            except OSError as error:
                self._add(-counted)
                self._failed(error)
            finally:
                lock.close()
        return False

    def has_room(self, more: int) -> bool:
        """Whether there is room for so much more without anything leaving."""
        return more <= self._left_bytes()

    def make_room(self, cached: CachedObject, more: int, coming: Mapping[str, int]) -> bool:
        """See that there is room for so much more of an object, whose turn comes in a known order; whether there is.

        Args:
            coming: in how many steps the store's objects are read next, by path.
        """
        if self.has_room(more) or self._make_room(_group(cached.subject), more, cached.subject, coming):
            return True
        self.drop_empty(cached)
        return False

    def drop_empty(self, cached: CachedObject) -> None:
        """Remove an object of which nothing is there, since nothing of it will be fetched ahead."""
        if not cached.held_bytes():
            self.remove(_key(cached.subject), 0)

    def drop(self, subject: Subject) -> None:
        """Remove an object, if it is there and not pinned."""
        cached = self.find(subject)
        if cached is not None:
            self.remove(_key(subject), cached.held_bytes())

    def remove(self, key: str, held_bytes: int) -> bool:
        """Remove an object, unless it is pinned or somebody else has just removed it; its readers can read on."""
        path = self.path_of(key)
        cached = CachedObject.open(path)
        if cached is None:
            return False
        pinned, counting = cached.removal(), RangeLock(self._used, _CHANGING_AT, shared=True)
        try:
            if not pinned.acquire() or not counting.acquire(_PATIENCE_S):
                return False
            path.unlink()
            self._add(-held_bytes)
        except FileNotFoundError:
            return False
        else:
            return True
        finally:
            pinned.close()
            counting.close()

    def entries(self) -> Iterator[Entry]:
        """What is there."""
        for path in (self.folder / "objects").glob(f"*/*{_SUFFIX}"):
            try:
                with path.open("rb") as file:
                    found = subject_of(file.read(HEADER_BYTES))
                cached = CachedObject.open(path)
            except FileNotFoundError:
                continue  # removed meanwhile
            if found is None or cached is None:
                log.warning("%s is no whole cache file; it is removed", path)
                with suppress(FileNotFoundError):
                    path.unlink()
                continue
            held = cached.held_bytes()
            yield Entry(path.name.removesuffix(_SUFFIX), found[0], held, found[1])

    @property
    def used_bytes(self) -> int:
        """What the blocks take, as far as was counted."""
        return self._read_used()[0]

    @property
    def bound_bytes(self) -> int:
        """What the blocks may take now: what is allowed, or less where the disk is full of other things."""
        return self._budget()

    def count(self) -> int:
        """Look how much is there, which puts the count right unless somebody keeps changing it.

        What killed processes have left behind goes.
        """
        self._sweep()
        lock = RangeLock(self._used, _CHANGING_AT)
        try:
            is_still = lock.acquire(_PATIENCE_S)
            used = sum(entry.held_bytes for entry in self.entries())
            if is_still:
                os.pwrite(self._used_fd, _USED.pack(used, time.time()), 0)
            return used
        finally:
            lock.close()

    # -- what objects are now ------------------------------------------------------------------------------

    def version(self, store: str, path: str, since_s: float) -> Version | None:
        """What an object was when the store was asked last, if that was not before `since_s` (since the epoch)."""
        try:
            found = orjson.loads(self._version_path(store, path).read_bytes())
            if found["path"] == path and found["asked_s"] >= since_s:
                return Version(found["size"], found["tag"])
        except (FileNotFoundError, ValueError, KeyError):
            pass
        return None

    @contextmanager
    def asking(self, store: str, path: str) -> Generator[None]:
        """Held while a store is asked what an object is; not for longer than a store usually takes to say so."""
        at = int.from_bytes(hashlib.sha256(f"{store}\0{path}".encode()).digest()[:4], "little")
        try:
            lock = RangeLock(self._used, _ASKING_AT + at)
        except OSError as error:
            self._failed(error)
            yield
            return
        try:
            lock.acquire(_ASKING_S)
            yield
        finally:
            lock.close()

    def remember(self, store: str, path: str, version: Version) -> None:
        """The store has just said what an object is. An older content of it leaves."""
        at = self._version_path(store, path)
        try:
            with suppress(FileNotFoundError, ValueError, KeyError):
                before = orjson.loads(at.read_bytes())
                old = Subject(store, path, before["size"], before["tag"])
                if before["path"] == path and old != Subject(store, path, version.size, version.tag):
                    self.drop(old)
            aside = f"{at}.{secrets.token_hex(4)}"
            told = {"path": path, "size": version.size, "tag": version.tag, "asked_s": time.time()}
            with os.fdopen(_created(aside), "wb") as file:
                file.write(orjson.dumps(told))
            os.rename(aside, at)
        except OSError as error:
            self._failed(error)

    def forget(self, store: str, path: str) -> None:
        """The object is another one now."""
        with suppress(FileNotFoundError):
            self._version_path(store, path).unlink()

    # -- inside ------------------------------------------------------------------------------------------

    def _find(self, key: str, subject: Subject, is_use: bool) -> CachedObject | None:
        found = CachedObject.open(self.path_of(key))
        if found is None:
            return None
        if found.subject != subject:
            raise ValueError(f"{self.path_of(key)} is of another object")
        if is_use:
            found.used(time.time())
        return found

    def _make(self, key: str, subject: Subject, is_use: bool) -> CachedObject | None:
        if time.monotonic() < self._off_until:
            return None
        path = self.path_of(key)
        aside = f"{path}.{secrets.token_hex(4)}"
        fd = _created(aside)
        made = CachedObject(path, fd, subject)
        try:
            os.pwrite(fd, subject.header(), 0)
            os.ftruncate(fd, subject.file_bytes)
            os.pwrite(fd, Use(time.time(), opens=int(is_use)).packed(), USE_AT)
            try:
                os.link(aside, path)
            except FileExistsError:
                found = CachedObject.open(path)
                if found is not None:
                    return found  # whoever comes second takes the first one's
                os.replace(aside, path)  # what is there is broken
        finally:
            with suppress(FileNotFoundError):
                os.unlink(aside)
        return made

    def _reserve(self, subject: Subject, more: int) -> bool:
        """Whether there is room for so much more of an object, or could be made."""
        group = _group(subject)
        now = time.monotonic()
        if now < self._refused.get(group, 0.0):
            return False
        self._count_now_and_then()
        if self.has_room(more) or self._make_room(group, more):
            return True
        if len(self._refused) > 10_000:
            self._refused.clear()
        self._refused[group] = now + _FULL_S
        return False

    def _left_bytes(self) -> int:
        return self._budget() - self.used_bytes

    def _budget(self) -> int:
        stat = os.fstatvfs(self._used_fd)
        free = stat.f_bavail * stat.f_frsize - int(stat.f_blocks * stat.f_frsize * self._keep_free)
        return min(self.most_bytes, max(0, self.used_bytes + free))

    def _count_now_and_then(self) -> None:
        """Kills make the count too high; one process at a time puts it right."""
        if time.time() - self._read_used()[1] < _COUNT_S:
            return
        lock = RangeLock(self._used, _COUNTING_AT)
        try:
            if lock.acquire():
                self.count()
        finally:
            lock.close()

    def _make_room(
        self, group: str, more: int, subject: Subject | None = None, order: Mapping[str, int] | None = None
    ) -> bool:
        """Whether something has left for it."""
        lock = RangeLock(self._used, _EVICTING_AT)
        try:
            if not lock.acquire(0.0 if order is None else _PATIENCE_S):
                return False  # somebody else is at it
            entries = [entry for entry in self.entries() if entry.held_bytes]
            residents = [Resident(e.key, e.group, e.held_bytes, e.use.last_s, e.use.interval_s) for e in entries]
            coming: dict[str, int] = {}
            if subject is not None and order is not None:
                coming = {e.key: order[e.subject.path] for e in entries
                          if e.subject.store == subject.store and e.subject.path in order}  # fmt: skip
            budget = self._budget()
            wanted = self.used_bytes + more - budget
            if wanted <= 0:
                return True
            leaving: list[Resident] = []
            # In a known order, what leaves needlessly may be what comes next.
            muches = (wanted,) if order is not None else (max(wanted, int(budget * _ROOM_SHARE)), wanted)
            for much in muches:
                leaving = leaving or victims(
                    residents,
                    wanted_bytes=much,
                    group=group,
                    budget_bytes=budget,
                    now_s=time.time(),
                    coming=coming,
                    wanted_in=order.get(subject.path) if order is not None and subject is not None else None,
                )
            freed = sum(each.size_bytes for each in leaving if self.remove(each.key, each.size_bytes))
            log.info("%s: %d objects with %d bytes left to make room for %s", self.folder, len(leaving), freed, group)
            return freed >= wanted
        finally:
            lock.close()

    def _add(self, more: int, within: int | None = None) -> bool:
        """Count bytes, unless they would be more than allowed."""
        self._counting.acquire()  # threads of this process need no polling
        lock = RangeLock(self._used)
        try:
            if not lock.acquire(_PATIENCE_S):
                return False
            used, counted_s = self._read_used()
            if within is not None and used + more > within:
                return False
            os.pwrite(self._used_fd, _USED.pack(max(0, used + more), counted_s), 0)
            return True
        finally:
            lock.close()
            self._counting.release()

    def _read_used(self) -> tuple[int, float]:
        found = os.pread(self._used_fd, _USED.size, 0)
        return _USED.unpack(found) if len(found) == _USED.size else (0, 0.0)

    def _sweep(self) -> None:
        """Remove what was begun and never finished, and what was last known too long ago to be of use."""
        now_s = time.time()
        for pattern, most_s in ((f"objects/*/*{_SUFFIX}.*", _BEGUN_S), ("versions/*/*.*", _BEGUN_S),
                                ("versions/*/*", _KNOWN_S)):  # fmt: skip
            for path in self.folder.glob(pattern):
                with suppress(FileNotFoundError):
                    if now_s - path.stat().st_mtime > most_s:
                        path.unlink()

    def _failed(self, error: OSError) -> None:
        """Caching stops for a while; reading goes on without."""
        if error.errno not in _PASSING:
            raise error
        if time.monotonic() >= self._off_until:
            log.warning("The cache in %s can't be written (%s); reads go on without it for now.", self.folder, error)
        self._off_until = time.monotonic() + 30.0

    def path_of(self, key: str) -> Path:
        """Where an object's file is, or would be."""
        return Path(f"{self.folder}/objects/{key[:2]}/{key}{_SUFFIX}")

    def _version_path(self, store: str, path: str) -> Path:
        key = hashlib.sha256(f"{store}\0{path}".encode()).hexdigest()[:32]
        return Path(f"{self.folder}/versions/{key[:2]}/{key}")


def used_bytes(folder: Path) -> int:
    """What a cache in a folder takes, as far as was counted; 0 if there is none."""
    try:
        return _USED.unpack((folder / "used").read_bytes())[0]
    except (FileNotFoundError, struct.error):
        return 0


def _created(path: str) -> int:
    """A new file, open for reading and writing; its folder is made if it has to be."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        with suppress(FileExistsError):
            os.mkdir(os.path.dirname(path), mode=0o700)
        return os.open(path, flags, 0o600)


def _group(subject: Subject) -> str:
    return f"{subject.store} {subject.path.rpartition('/')[0]}"


def _key(subject: Subject) -> str:
    told = f"{subject.store}\0{subject.path}\0{subject.size}\0{subject.tag}"
    return hashlib.sha256(told.encode()).hexdigest()[:32]
