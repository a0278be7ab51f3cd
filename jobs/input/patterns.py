"""Globs, matched name by name, so that a walk enters only folders that can hold a match.

`*`, `?` and `[…]` stay within one name; `**` stands for any number of folders. Hidden names are matched
only by a part of the pattern that begins with a dot itself.
"""

from __future__ import annotations

import fnmatch
import re

_MAGIC = re.compile(r"[*?\[]")

State = frozenset[int]
"""How many parts of the pattern the names so far may have used up."""


def has_magic(path: str) -> bool:
    """Whether a path is a glob."""
    return bool(_MAGIC.search(path))


def split_glob(path: str) -> tuple[str, str]:
    """A glob's root, which holds no magic, and the pattern below it."""
    parts = path.split("/")
    first = next(index for index, part in enumerate(parts) if has_magic(part))
    root = "/".join(parts[:first])
    return root or ("/" if path.startswith("/") else ""), "/".join(parts[first:])


class Pattern:
    """A compiled glob. Begin with `start` and take a `step` for every name of a path.

    Args:
        glob: relative, with "/" between names; "**/*" is every file below.
    """

    def __init__(self, glob: str) -> None:
        self._parts = [part for part in glob.split("/") if part not in ("", ".")]
        self._matchers = [re.compile(fnmatch.translate(part)) for part in self._parts]
        self.start = self._closed({0})

    def step(self, state: State, name: str) -> State:
        """The state after one more name; empty when nothing there or below can match."""
        is_hidden = name.startswith(".")
        after: set[int] = set()
        for index in state:
            if index == len(self._parts) or (is_hidden and not self._parts[index].startswith(".")):
                continue
            if self._parts[index] == "**":
                after.add(index)
            elif self._matchers[index].match(name):
                after.add(index + 1)
        return self._closed(after)

    def is_match(self, state: State) -> bool:
        """Whether the names so far are a whole match."""
        return len(self._parts) in state

    def _closed(self, state: set[int]) -> State:
        for index in sorted(state):
            after = index
            while after < len(self._parts) and self._parts[after] == "**":
                after += 1
                state.add(after)
        return frozenset(state)
