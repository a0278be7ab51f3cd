"""Where the cache lies on this machine, and whether it can lie there."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Literal

import platformdirs

from ..errors import SettingsError
from ..settings import config_file

Kind = Literal["disk", "memory"]

_LAYOUT = "v1"
_SHARED = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "lustre", "beegfs", "gpfs", "glusterfs", "fuse.")
_LOCAL_FUSE = ("fuse.fuse-overlayfs",)
_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of one's own in it, for its user only


def cache_folder(kind: Kind = "disk") -> tuple[Path, str]:
    """The folder, and who says so: "HOLDSHORT_CACHE", the configuration file's name, or "" for the default."""
    if kind == "memory":
        return _MEMORY / f"holdshort-{os.getuid()}" / _LAYOUT, ""
    named = os.environ.get("HOLDSHORT_CACHE")
    if named:
        return Path(named).expanduser().absolute() / _LAYOUT, "HOLDSHORT_CACHE"
    path = config_file()
    if path is not None:
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8")).get("cache")
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"{path}: {error}") from error
        if found is not None:
            if not isinstance(found, str) or not found:
                raise SettingsError(f'{path}: cache is {found!r}; name a folder, e.g. cache = "/nvme/holdshort"')
            return (path.parent / Path(found).expanduser()).absolute() / _LAYOUT, path.name
    return Path(platformdirs.user_cache_dir("holdshort", appauthor=False)) / "objects" / _LAYOUT, ""


def usable_folder(kind: Kind = "disk") -> tuple[Path, str]:
    """The folder, made if need be, and why no cache can lie in it; "" if one can.

    Raises:
        SettingsError: none can, and the user has named it.
    """
    folder, named_by = cache_folder(kind)
    # In memory anybody may make folders, also by the name that is ours.
    why = (unusable(folder.parent) if kind == "memory" else "") or unusable(folder)
    if why and named_by:
        raise SettingsError(
            f"{named_by} names {folder.parent} for the cache, where none can lie: {why}. Name another folder."
        )
    return folder, why


def unusable(folder: Path) -> str:
    """Why a cache can't lie there; "" if it can. Makes the folder."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        return f"it can't be made: {error.strerror or error}"
    if folder.lstat().st_uid != os.getuid():
        return "it belongs to another user"
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK) or os.statvfs(folder).f_flag & os.ST_RDONLY:
        return "it can't be written"
    kind = _file_system(folder)
    if kind.startswith(_SHARED) and kind not in _LOCAL_FUSE:
        return f"it lies on {kind}, where locks and pages of several machines are not safe"
    return ""


def _file_system(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the file system that a folder is on, such as "ext4"."""
    found, longest = "", -1
    at = os.fspath(folder.resolve())
    for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        point = left.split(" ")[4].encode("latin-1", "surrogateescape").decode("unicode_escape")
        inside = at == point or at.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:
            found, longest = right.split(" ")[0], len(point)
    return found
