"""What an access profile is: some values with the reason for each, under a name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .access import Access


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a profile.

    Attributes:
        name: an attribute of Access.
        reason: why it is what it is, as a part of a sentence.
    """

    name: str
    value: Any
    reason: str


@dataclass(frozen=True, slots=True)
class Profile:
    """How bytes of one kind move between a store and a process. What it leaves open, the node decides.

    Attributes:
        name: as users write it before "::" in a URL, or as the argument `profile` if fsspec knows no such prefix.
        reason: what kind of access it is for, in one sentence.
        extends: the profile whose values count where it has none of its own; "" for one that stands alone.

    Raises:
        ValueError: no such value, or one that is out of bounds.
    """

    name: str
    reason: str
    values: tuple[Value, ...]
    extends: str = ""

    def __post_init__(self) -> None:
        Access.of({value.name: value.value for value in self.values})

    def __iter__(self) -> Iterator[Value]:
        return iter(self.values)


def profile(name: str, reason: str, **values: tuple[Any, str]) -> Profile:
    """A profile from values by name, each with its reason."""
    return Profile(name, reason, tuple(Value(key, value, why) for key, (value, why) in values.items()))


def extension(name: str, extends: str, values: Mapping[str, Any], *, origin: str) -> Profile:
    """A user's profile: a named one with some values of its own, set in the file or argument that `origin` names."""
    return Profile(
        name,
        f"like {extends}, with values from {origin}",
        tuple(Value(key, value, f"set in {origin}") for key, value in values.items()),
        extends,
    )
