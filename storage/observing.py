"""What this process has seen of how objects are used, and the profile that follows from it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping

from ..profiles import Choice, Profile
from ..profiles.pattern import Event, Kind, Observed

log = logging.getLogger(__name__)

_KEPT_FOLDERS = 1024


class Observing:
    """Watches folders, and says which profile fits what happened there. Thread-safe."""

    def __init__(self, known: Mapping[str, Profile]) -> None:
        self._known = known
        self._lock = threading.Lock()
        self._folders: OrderedDict[str, Observed] = OrderedDict()
        self._chosen: dict[str, str] = {}

    def after_fork(self) -> None:
        """In a child: the lock may be held by a thread that is not here."""
        self._lock = threading.Lock()

    def tell(self, kind: Kind, path: str, *, size: int = 0, start: int = 0, length: int = 0) -> None:
        """Something happened to an object."""
        event = Event(time.monotonic(), kind, path, size, start, length, str(os.getpid()))
        with self._lock:
            self._folder(path).tell(event)

    def choice(self, path: str) -> Choice | None:
        """The profile for an object by what happened in its folder; None as long as it could be anything."""
        folder = path.rpartition("/")[0]
        with self._lock:
            pattern = self._folder(path).pattern()
        if pattern is None:
            return None
        choice = pattern.choice(self._known)
        if self._chosen.get(folder) != pattern.name:
            self._chosen[folder] = pattern.name
            log.info("%s is read by the profile %s from now on: %s", folder or path, choice.profile.name, choice.why)
        return choice

    def _folder(self, path: str) -> Observed:
        folder = path.rpartition("/")[0]
        found = self._folders.get(folder)
        if found is None:
            found = self._folders[folder] = Observed()
            if len(self._folders) > _KEPT_FOLDERS:
                gone, _ = self._folders.popitem(last=False)
                self._chosen.pop(gone, None)
        return found
