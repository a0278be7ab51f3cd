"""One relay at a time works for a store on a host; the others wait, and cost nothing but their memory."""

from __future__ import annotations

import fcntl
import os
import threading

from ...storage.errors import LaneError
from .place import LanePlace

_LOOK_S = 0.2


class RelayLock:
    """The right to be the relay: held until this process ends, however it ends."""

    def __init__(self, place: LanePlace) -> None:
        self._lock = place.folder / "relay.lock"
        self._queue = place.folder / "relay.waiting"
        self._descriptor = -1

    def wait(self, stop: threading.Event) -> bool:
        """Wait for our turn; False if `stop` was set first. Raises LaneError."""
        try:
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
            waiting = os.open(self._queue, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise LaneError(
                f"The lane folder {self._lock.parent} can't be used: {error.strerror or error}. Name another one as "
                f"lane_folder, for sources and workers alike."
            ) from error
        fcntl.flock(waiting, fcntl.LOCK_SH)
        come = threading.Event()

        def wait() -> None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            come.set()

        # Blocked in the kernel, in a thread: woken at once by the holder's death, and no signal has to interrupt it.
        threading.Thread(target=wait, name="relay-turn", daemon=True).start()
        while not come.wait(_LOOK_S):
            if stop.is_set():
                return False
        os.close(waiting)
        self._descriptor = descriptor
        return True

    def is_wanted(self) -> bool:
        """Whether another relay waits for its turn."""
        waiting = os.open(self._queue, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(waiting)
