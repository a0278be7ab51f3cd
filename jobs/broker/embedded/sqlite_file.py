"""One SQLite file shared by threads, processes and forks; its errors told in words.

This module knows how to open, lock, retry and close. What is in the file is `database`'s business.
"""

from __future__ import annotations

import ctypes
import logging
import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from .errors import BrokerBusyError, BrokerFileError, DiskFullError, EmbeddedBrokerError
from .mounts import network_file_system

log = logging.getLogger(__name__)

_T = TypeVar("_T")
Row = tuple[Any, ...]
Args = Sequence[Any]

#: RETURNING came with this version.
_OLDEST_SQLITE = (3, 35, 0)
#: The write-ahead log is cut back to this size, in bytes, when it starts anew.
_JOURNAL_LIMIT = 4 * 1024 * 1024
#: How often a look is taken whether the path still leads to the open file, in seconds.
_IDENTITY_CHECK_S = 1.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.000_05, 0.005

_open_files: weakref.WeakSet[SqliteFile] = weakref.WeakSet()


class SqliteFile:
    """A connection that opens itself when needed, used by one thread at a time.

    A statement is a transaction of its own unless it runs inside `transaction()`. Around a fork the
    connection is closed, so that parent and child each open their own: SQLite's locks do not survive a
    fork, and a shared connection corrupts the file.

    Args:
        path: the database file; created if missing, its folder is not.
        schema: statements that fill an empty file.
        version: number of that schema. A file with a higher one is refused.
        full_sync: wait for the disk at every commit. Otherwise a power loss may take back the last ones.
        busy_timeout_s: how long to wait for other writers.
    """

    def __init__(
        self, path: str, *, schema: Sequence[str], version: int, full_sync: bool, busy_timeout_s: float
    ) -> None:
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise BrokerFileError(
                f"The embedded broker needs SQLite 3.35 or newer; this Python has {sqlite3.sqlite_version}."
            )
        self.path = path
        self._schema = schema
        self._version = version
        self._full_sync = full_sync
        self._busy_timeout_s = busy_timeout_s
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        self._identity = (0, 0)
        self._identity_due = 0.0
        _open_files.add(self)

    def run(self, sql: str, args: Args = ()) -> list[Row]:
        """Run one statement and return its rows."""
        with self._lock:
            try:
                return self._open().execute(sql, args).fetchall()
            except sqlite3.Error as error:
                self._check_busy(error)
            return self._patiently(lambda: self._open().execute(sql, args).fetchall())

    def change(self, sql: str, args: Args = ()) -> int:
        """Run one statement and return how many rows it changed."""
        with self._lock:
            try:
                return self._open().execute(sql, args).rowcount
            except sqlite3.Error as error:
                self._check_busy(error)
            return self._patiently(lambda: self._open().execute(sql, args).rowcount)

    @contextmanager
    def transaction(self) -> Generator[None]:
        """All statements inside happen together or not at all."""
        with self._lock:
            self._patiently(lambda: self._open().execute("BEGIN IMMEDIATE"))
            try:
                yield
                self._patiently(lambda: self._open().execute("COMMIT"))
            except BaseException:
                self._roll_back()
                raise

    def open(self) -> None:
        """Open the file now, to learn early what is wrong with it."""
        with self._lock:
            self._patiently(self._open)

    def close(self) -> None:
        """Close; the next statement opens again."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is None:
                return
            if self._pid != os.getpid():
                _abandon(connection)
                return
            try:
                connection.close()
            except sqlite3.Error as error:
                log.debug("closing %s: %s", self.path, error)

    # -- inside ----------------------------------------------------------------------------------------

    def _patiently(self, act: Callable[[], _T]) -> _T:
        deadline = 0.0
        pause = _FIRST_PAUSE_S
        while True:
            try:
                return act()
            except sqlite3.Error as error:
                self._check_busy(error)
                now = time.monotonic()
                deadline = deadline or now + self._busy_timeout_s
                if now >= deadline:
                    raise BrokerBusyError(
                        f"The broker file {self.path} was locked by other processes for more than "
                        f"{self._busy_timeout_s:g} s. Look for a process that is stopped in the middle of a "
                        f"write, or a slow disk, or raise the transport option busy_timeout_s."
                    ) from error
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - spreads waiting writers, no secret
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    def _check_busy(self, error: sqlite3.Error) -> None:
        """Raise in our words what waiting cannot cure."""
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise self._translated(error) from error

    def _open(self) -> sqlite3.Connection:
        connection = self._connection
        if connection is not None:
            now = time.monotonic()
            if self._pid != os.getpid():
                self.close()
            elif now < self._identity_due or self._is_same_file(now):
                return connection
        return self._connect()

    def _is_same_file(self, now: float) -> bool:
        self._identity_due = now + _IDENTITY_CHECK_S
        try:
            status = os.stat(self.path)
        except OSError:
            status = None
        if status is not None and (status.st_dev, status.st_ino) == self._identity:
            return True
        if self._connection is not None and self._connection.in_transaction:
            return True
        log.error("The broker file %s was removed or replaced while in use; opening what is there now.", self.path)
        # Closing would delete, by name, the log of the file that is there now.
        _abandon(self._connection)
        self._connection = None
        return False

    def _connect(self) -> sqlite3.Connection:
        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            raise BrokerFileError(
                f"The folder {folder} of the broker file {os.path.basename(self.path)} does not exist. Create it."
            )
        if not os.access(folder, os.W_OK | os.X_OK):
            raise BrokerFileError(
                f"The folder {folder} of the broker file {os.path.basename(self.path)} is not writable for this "
                f"user (uid {os.geteuid()}). SQLite keeps its log beside the file. Change the folder's owner or mode."
            )
        kind = network_file_system(folder)
        if kind is not None:
            raise BrokerFileError(
                f"The broker file {self.path} lies on a network file system ({kind}), where SQLite's locks and "
                f"shared memory do not work. Use a local disk, or another broker for several hosts."
            )
        connection = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(connection)
            status = os.stat(self.path)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._pid = os.getpid()
        self._identity = (status.st_dev, status.st_ino)
        self._identity_due = time.monotonic() + _IDENTITY_CHECK_S
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        def pragma(text: str) -> Any:
            row = connection.execute(f"PRAGMA {text}").fetchone()
            return row[0] if row else None

        # It takes effect in an empty file only, hence before anything is written.
        pragma("auto_vacuum = INCREMENTAL")
        mode = pragma("journal_mode = WAL")
        if mode != "wal":
            raise BrokerFileError(
                f"SQLite cannot keep a write-ahead log for {self.path} (journal mode {mode!r}): the file system "
                f"lacks shared memory or locks. Put the broker file on a local disk."
            )
        pragma(f"synchronous = {'FULL' if self._full_sync else 'NORMAL'}")
        pragma(f"journal_size_limit = {_JOURNAL_LIMIT}")
        pragma("secure_delete = OFF")
        version = pragma("user_version")
        if version == 0:
            connection.execute("BEGIN IMMEDIATE")
            try:
                version = pragma("user_version")
                if version == 0:
                    for statement in self._schema:
                        connection.execute(statement)
                    pragma(f"user_version = {self._version}")
                    version = self._version
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        if version != self._version:
            raise BrokerFileError(
                f"The broker file {self.path} has schema {version}; this release reads schema {self._version}. "
                f"Use the release that wrote it, or name another file."
            )

    def _roll_back(self) -> None:
        connection = self._connection
        if connection is None or not connection.in_transaction:
            return
        try:
            connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            log.debug("rolling back in %s: %s", self.path, error)
            self.close()

    def _translated(self, error: sqlite3.Error) -> EmbeddedBrokerError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and self._has_no_space()):
            return DiskFullError(
                f"The disk of the broker file {self.path} is full. Messages accepted before are safe. "
                f"Make room; waiting operations then go on by themselves."
            )
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            self.close()
            return BrokerFileError(
                f"The broker file {self.path} is not a broker database or is damaged ({error}). Move it and its "
                f"-wal and -shm files away; a new one is created, and what it held must be published again."
            )
        self._roll_back()
        return BrokerFileError(f"The broker file {self.path} cannot be used: {error}.")

    def _has_no_space(self) -> bool:
        try:
            status = os.statvfs(os.path.dirname(self.path))
        except OSError:
            return False
        return status.f_bavail * status.f_frsize < 1024 * 1024

    # -- forks -----------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        self._lock.acquire()
        self.close()

    def after_fork(self) -> None:
        self._lock.release()


_forking: list[SqliteFile] = []


def _before_fork() -> None:
    _forking.extend(_open_files)
    for file in _forking:
        file.before_fork()


def _after_fork() -> None:
    for file in _forking:
        file.after_fork()
    _forking.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def _abandon(connection: sqlite3.Connection | None) -> None:
    """Never close this connection, not even when the interpreter ends: closing it would harm others.

    It is one whose file was replaced, or a parent's in a child that was forked behind Python's back.
    """
    if connection is not None:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
