"""What the rows of a checkpoint job say once they have ended, and what it means for the files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import orjson

from ...storage.checkpoints.manifest import CopiedFile
from ...storage.crc32c import of_slices
from ...storage.errors import Corrupt
from ..ledger import Ledger
from ..record import JobRecord
from .accepting import file_of


@dataclass(frozen=True, slots=True)
class File:
    """A file all of whose slices are done.

    Attributes:
        tags: of its pieces, in order; none for a file that was written whole.
        wanted: its CRC32C by the manifest it comes from; "" for one that is saved.
    """

    number: int
    step: int
    attempt: str
    copied: CopiedFile
    tags: tuple[str, ...]
    wanted: str

    @property
    def name(self) -> str:
        return f"{self.copied.path} of step {self.step}"


class RowDone:
    """A row's result line."""

    def __init__(self, line: dict[str, Any], record: JobRecord) -> None:
        self.custom_id: str = line["custom_id"]
        self.file = file_of(self.custom_id)
        self.code: str = line["error"]["code"] if line["error"] else ""
        self.error: str = line["error"]["message"] if line["error"] else ""
        self.body: dict[str, Any] = {} if line["response"] is None else line["response"]["body"]
        begins = self.file.partition("/")[0]
        own = int(record.spec["step"]) if record.action == "save" else int(begins) if begins.isdigit() else 0
        self.step = int(self.body.get("step", own))
        self.attempt: str = self.body.get("attempt", record.id)

    @property
    def was_there(self) -> bool:
        """Whether the whole step was in the target before."""
        return bool(self.body.get("there"))


def rows_done(ledger: Ledger, record: JobRecord) -> list[RowDone]:
    """The result lines of a job whose rows have all ended."""
    lines = (line for shard in range(record.shards) for line in ledger.shard(record.id, shard)[1])
    return [RowDone(orjson.loads(line), record) for line in lines]


def is_damaged(rows: list[RowDone]) -> bool:
    """Whether all that is wrong is that the step itself is not whole."""
    codes = {row.code for row in rows if row.error}
    return codes <= {"missing", "corrupt"} if codes else bool(mismatches(files_of(rows)))


def files_of(rows: Iterable[RowDone], *, partly: bool = False) -> list[File]:
    """The files whose slices are all there. Raises Corrupt if some are missing, unless `partly`."""
    found: list[File] = []
    slices = [row for row in rows if "crc32c" in row.body]
    # Jobs that were accepted by a version before slices have no number: there a row is a file.
    slices.sort(key=lambda row: (row.step, row.body["path"], row.body.get("first", 0)))
    for number, ((step, path), group) in enumerate(groupby(slices, key=lambda row: (row.step, row.body["path"]))):
        each = list(group)
        size = int(each[0].body.get("file_bytes", each[0].body["size_bytes"]))
        if sum(int(row.body["size_bytes"]) for row in each) != size:
            if partly:
                continue
            raise Corrupt(f"{path} of step {step} has {size} bytes, but its slices have others; the job is left")
        crc = of_slices((int(row.body["crc32c"], 16), int(row.body["size_bytes"])) for row in each)
        tags = tuple(tag for row in each for tag in row.body.get("tags", ()))
        copied = CopiedFile(path, size, f"{crc:08x}")
        found.append(File(number, step, each[0].attempt, copied, tags, each[0].body.get("wanted", "")))
    return found


def mismatches(files: Iterable[File]) -> list[File]:
    """Those that are not what their manifest says."""
    return [file for file in files if file.wanted and file.wanted != file.copied.crc32c]


def difference(file: File) -> str:
    """What is wrong with a file."""
    return f"has CRC32C {file.copied.crc32c}, not {file.wanted}"
