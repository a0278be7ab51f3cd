"""Waking those who wait for messages: a unix datagram socket per session, in a folder beside the file.

A datagram on the socket means "look again". That nobody is bound to a socket file any more means that
its process is dead. That there is no file means nothing.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import select
import signal
import socket
import threading
import weakref
from collections.abc import Generator, Iterable

log = logging.getLogger(__name__)

#: Longest path that fits into a socket address everywhere, in bytes.
_LONGEST_PATH = 103
_WAKE = b"\0"
_ENDING_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP})

_open_bells: weakref.WeakSet[Doorbell] = weakref.WeakSet()


class BellFolder:
    """Where the sockets of a broker's sessions lie; names in it are what the sessions publish.

    It lies beside the database, because whoever shares that shares the folder, be it from another
    container.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def make(self) -> None:
        """Create the folder. Raises OSError."""
        os.makedirs(self.path, exist_ok=True)

    @contextlib.contextmanager
    def address(self, name: str) -> Generator[str]:
        """A path to `name` that fits into a socket address. Raises OSError."""
        path = os.path.join(self.path, name)
        if len(os.fsencode(path)) <= _LONGEST_PATH:
            yield path
            return
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{folder}/{name}"
        finally:
            os.close(folder)

    def remove(self, name: str) -> None:
        """Remove a socket file that nobody needs any more."""
        try:
            os.unlink(os.path.join(self.path, name))
        except FileNotFoundError:
            pass
        except OSError as error:
            log.debug("removing the doorbell %s in %s: %s", name, self.path, error)

    def names(self) -> list[str]:
        try:
            return os.listdir(self.path)
        except OSError as error:
            log.debug("listing the doorbells in %s: %s", self.path, error)
            return []


class Ringer:
    """Rings doorbells. Never blocks, never raises: who cannot be rung looks by itself after a second."""

    def __init__(self, folder: BellFolder) -> None:
        self._folder = folder
        self._socket: socket.socket | None = None
        self._pid = 0

    def ring(self, names: Iterable[str]) -> None:
        """Wake the sessions with these bells."""
        for name in names:
            try:
                with self._folder.address(name) as address:
                    self._sender().sendto(b"", address)
            except BlockingIOError:
                continue  # its buffer is full of rings already
            except OSError as error:
                log.debug("ringing %s in %s: %s", name, self._folder.path, error)

    def is_dead(self, name: str) -> bool:
        """True if the process of this bell is surely gone; False if it lives or there is no telling."""
        probe = self._new_socket()
        if probe is None:
            return False
        try:
            # Connecting to a datagram socket sends nothing.
            with probe, self._folder.address(name) as address:
                probe.connect(address)
        except OSError as error:
            return error.errno == errno.ECONNREFUSED
        return False

    def close(self) -> None:
        sender, self._socket = self._socket, None
        if sender is not None:
            sender.close()

    def _sender(self) -> socket.socket:
        if self._socket is None or self._pid != os.getpid():
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._pid = os.getpid()
        return self._socket

    def _new_socket(self) -> socket.socket | None:
        try:
            return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            log.debug("no socket to probe with: %s", error)
            return None


class Doorbell:
    """A session's own bell, and its wait for it.

    Attributes:
        name: what to publish so that others can ring; None if no socket could be made. Then the session
            has to look for messages by itself.
    """

    def __init__(self, folder: BellFolder) -> None:
        self.name: str | None = None
        self._folder = folder
        self._bell: socket.socket | None = None
        self._pid = os.getpid()
        # A second way in, for threads of this process and for signals.
        self._inside, self._outside = socket.socketpair()
        self._inside.setblocking(False)
        self._outside.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._inside, select.POLLIN)
        try:
            self._bind()
        except OSError as error:
            log.warning(
                "No doorbell can be made in %s (%s): this consumer polls instead, and a crash of its process is "
                "noticed only when its lease runs out.",
                folder.path,
                error,
            )
        _open_bells.add(self)

    def wait(self, timeout_s: float) -> bool:
        """Wait for a ring, a wake-up or the time-out.

        Returns True if a signal came that usually ends a process and whose handler returned: whoever
        called should be given the chance to stop.
        """
        self._poll.poll(max(0.0, timeout_s) * 1000)
        if self._bell is not None:
            _drain(self._bell)
        return not _ENDING_SIGNALS.isdisjoint(_drain(self._inside))

    def wake(self) -> None:
        """End the wait, from another thread."""
        try:
            self._outside.send(_WAKE)
        except BlockingIOError:
            pass  # wake-ups are waiting to be read already
        except OSError as error:
            log.debug("waking a closed doorbell: %s", error)

    @contextlib.contextmanager
    def heeding_signals(self) -> Generator[None]:
        """Inside, a signal ends the wait (Python would otherwise go on waiting after its handler)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.set_wakeup_fd(self._outside.fileno(), warn_on_full_buffer=False)
        if before != -1:  # it is somebody else's, an event loop's perhaps
            signal.set_wakeup_fd(before, warn_on_full_buffer=False)
            yield
            return
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)

    def close(self) -> None:
        """Close the sockets, and remove the file if it is this process's."""
        _open_bells.discard(self)
        self.close_sockets()
        if self.name is not None and self._pid == os.getpid():
            self._folder.remove(self.name)

    def close_sockets(self) -> None:
        """Close the sockets only. A child must, or its parent would not seem dead when it is."""
        for end in (self._bell, self._inside, self._outside):
            if end is not None:
                end.close()

    def _bind(self) -> None:
        self._folder.make()
        name = f"{os.getpid()}-{secrets.token_hex(6)}"
        bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            with self._folder.address(name) as address:
                bell.bind(address)
        except OSError:
            bell.close()
            raise
        self.name, self._bell = name, bell
        self._poll.register(bell, select.POLLIN)


def _drain(end: socket.socket) -> set[int]:
    """Read all there is; returns which bytes came."""
    seen: set[int] = set()
    while True:
        try:
            data = end.recv(4096)
        except OSError:  # nothing more, or closed by another thread
            return seen
        if not data and end.type == socket.SOCK_STREAM:
            return seen
        seen.update(data)


def _in_child() -> None:
    for bell in list(_open_bells):
        bell.close_sockets()
    _open_bells.clear()


os.register_at_fork(after_in_child=_in_child)
