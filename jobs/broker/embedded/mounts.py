"""Is a folder on a network file system?"""

from __future__ import annotations

import os
import re

_ESCAPE = re.compile(r"\\([0-7]{3})")
_NETWORK = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs", "fuse.juicefs",
    "fuse.mountpoint-s3", "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4",
    "orangefs", "smb3", "smbfs",
})  # fmt: skip


def network_file_system(folder: str, mounts: str = "/proc/self/mountinfo") -> str | None:
    """The type of the network file system that `folder` lies on; None on a local one or where unknown."""
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as lines:
            kind = _kind_of(os.path.realpath(folder), lines.read().splitlines())
    except OSError:
        return None
    return kind if kind in _NETWORK else None


def _kind_of(folder: str, lines: list[str]) -> str | None:
    # The fields of a line: man 5 proc_pid_mountinfo. A later mount covers an earlier one.
    best, found = "", None
    for line in lines:
        fields, _, rest = line.partition(" - ")
        words = fields.split(" ")
        if len(words) < 5 or not rest:
            continue
        point = _ESCAPE.sub(lambda octal: chr(int(octal[1], 8)), words[4])
        inside = folder == point or folder.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, found = point, rest.split(" ", 1)[0]
    return found
