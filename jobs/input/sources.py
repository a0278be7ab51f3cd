"""From what the caller names, a file, a folder or a glob, to the files to read, in sorted order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from .formats import KNOWN_SUFFIXES, Format, format_of
from .patterns import Pattern, State, has_magic, split_glob
from .places import Place, missing
from .problems import Findings, UnusableError

_log = logging.getLogger(__name__)
_NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file to read.

    Attributes:
        path: by which its place opens it.
        name: relative to the folder or to the glob's root, with "/" between names.
        where: how messages name it.
        format: how to read it.
        id_prefix: put before the ids of rows that have none, so that two files' don't meet.
    """

    path: str
    name: str
    where: str
    format: Format
    id_prefix: str = ""


class Skipped:
    """What lay in a folder and was not read; told to the log once reading ends."""

    def __init__(self) -> None:
        self.count = 0
        self._names: list[str] = []

    def add(self, where: str, why: str) -> None:
        """Count one, and remember the name of the first few."""
        self.count += 1
        if len(self._names) < _NAMES_SHOWN:
            self._names.append(f"{where} ({why})")

    def __str__(self) -> str:
        more = self.count - len(self._names)
        return ", ".join(self._names) + (f" and {more} more" if more else "")

    def tell(self, where: str) -> None:
        """Log what was skipped; nothing when nothing was."""
        if self.count:
            _log.info("%s: skipped %d of the entries: %s", where, self.count, self)


def find_files(place: Place, path: str, exclude: Callable[[str], bool] | None, found: Findings) -> Iterator[InputFile]:
    """The files that a path names, in the order of their names.

    Problems with single files and folders go to `found`, and the others are still given.

    Raises:
        UnusableError: the path names nothing that can be read.
    """
    kind = place.kind(path)
    if kind == "file":
        yield _single(place, path)
    elif kind == "folder":
        yield from _checked(place, path, Pattern("**/*"), place.shown(path), exclude, found)
    elif kind == "missing" and has_magic(path) and not _is_web(path):
        root, glob = split_glob(path)
        yield from _checked(place, root, Pattern(glob), place.shown(path), exclude, found)
    elif kind == "missing":
        raise missing(place.shown(path), place.context())
    else:
        raise UnusableError(
            place.shown(path),
            "unreadable",
            "is no regular file.",
            "Name a file, a folder or a glob, or submit the rows from a generator.",
        )


def _is_web(path: str) -> bool:
    return path.startswith(("http://", "https://"))


def _single(place: Place, path: str) -> InputFile:
    name = (urlsplit(path).path if _is_web(path) else path).rpartition("/")[2]
    form = format_of(name)
    if form is None:
        cure = KNOWN_SUFFIXES
        if name.lower().endswith(".json"):
            cure = f"Write one object per line, and name it .jsonl. {cure}"
        raise UnusableError(
            place.shown(path), "unknown_suffix", f"its suffix does not say how to read it ({name}).", cure
        )
    return InputFile(path, name, place.shown(path), form)


def _checked(
    place: Place,
    root: str,
    pattern: Pattern,
    shown: str,
    exclude: Callable[[str], bool] | None,
    found: Findings,
) -> Iterator[InputFile]:
    skipped = Skipped()
    first: InputFile | None = None
    if place.kind(root) == "folder":
        for file in _walk(place, root, pattern, exclude, found, skipped):
            first = first or file
            if file.format.is_table != first.format.is_table:
                table, text = (file, first) if file.format.is_table else (first, file)
                raise UnusableError(
                    shown,
                    "mixed_folder",
                    f"holds tables ({table.name}) as well as text files ({text.name}), and it is not clear "
                    f"which of them are the rows.",
                    'Name one kind by a glob, for example "docs/**/*.md".',
                )
            yield file
    skipped.tell(shown)
    if first is None and not found:
        raise _nothing(place, shown, skipped)


def _nothing(place: Place, shown: str, skipped: Skipped) -> UnusableError:
    if skipped.count:
        return UnusableError(
            shown, "empty_input", f"no file of a known kind is there, only: {skipped}.", KNOWN_SUFFIXES
        )
    if has_magic(shown):
        context = f"; {place.context()}" if place.context() else ""
        return UnusableError(
            shown, "no_match", "no file matches.", f"Check the pattern{context}. Hidden files are left out."
        )
    return UnusableError(
        shown, "empty_input", "the folder holds no files.", "Put files there. Hidden ones are left out."
    )


def _walk(
    place: Place,
    root: str,
    pattern: Pattern,
    exclude: Callable[[str], bool] | None,
    found: Findings,
    skipped: Skipped,
) -> Iterator[InputFile]:
    # Depth first, with folders sorted as if their names ended in "/": the order of the whole names.
    left: list[tuple[str, State]] = [("", pattern.start)]
    base = root if not root or root.endswith("/") else f"{root}/"
    while left:
        name, state = left.pop()
        path = f"{base}{name}"
        is_folder = name == "" or name.endswith("/")
        if name and exclude is not None and exclude(place.absolute(path.rstrip("/"))):
            continue
        if not is_folder:
            file = _file(place, path, name, found, skipped)
            if file:
                yield file
            continue
        below: list[tuple[str, State]] = []
        try:
            entries = place.entries(path.rstrip("/") or root)
        except UnusableError as error:
            found.add(error.problem)
            continue
        for entry in entries:
            after = pattern.step(state, entry.name)
            if entry.kind == "folder" and after:
                below.append((f"{name}{entry.name}/", after))
            elif pattern.is_match(after) and entry.kind == "file":
                below.append((f"{name}{entry.name}", after))
            elif pattern.is_match(after) and entry.kind == "other":
                skipped.add(f"{name}{entry.name}", entry.note)
        left.extend(sorted(below, key=lambda pair: pair[0], reverse=True))


def _file(place: Place, path: str, name: str, found: Findings, skipped: Skipped) -> InputFile | None:
    form = format_of(name)
    if form is None:
        skipped.add(name, "of no known kind")
        return None
    if not name.isprintable() and any("\ud800" <= sign <= "\udfff" for sign in name):
        shown = place.shown(path).encode("utf-8", "backslashreplace").decode()
        error = UnusableError(shown, "bad_name", "its name is not UTF-8.", "Rename the file.")
        found.add(error.problem)
        return None
    return InputFile(path, name, place.shown(path), form, id_prefix=f"{name}/")
