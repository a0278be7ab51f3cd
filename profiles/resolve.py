"""Which values count, and where each comes from. Pure.

An argument comes before what was observed, that before a user's own profile, that before the one it extends, that
before what follows from the size of the data, if it is known, and that before what fits the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .access import NAMES, Access
from .profile import Profile, Value

_FIXED = "built in"


@dataclass(frozen=True, slots=True)
class Applied:
    """One value as it counts.

    Attributes:
        source: "argument", "observed", "profile NAME", "data", "this node" or "built in".
        reason: why it is what it is.
    """

    name: str
    value: Any
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The values of an access, and where they come from."""

    profile: str
    access: Access
    applied: tuple[Applied, ...]


def resolve(
    chosen: Profile,
    known: Mapping[str, Profile] | None = None,
    *,
    arguments: Mapping[str, Any] | None = None,
    observed: Iterable[Value] = (),
    data: Callable[[Mapping[str, Any]], Iterable[Value]] | None = None,
    node: Iterable[Value] = (),
) -> Plan:
    """The values for a profile on a node.

    Args:
        known: all profiles by name, to find what it extends.
        arguments: what was asked for explicitly.
        observed: what follows from how objects are used.
        data: says what fits the data, given the values that count before it; None: nothing is known of the data.
        node: what fits this machine.

    Raises:
        ValueError: a value is out of bounds, or a profile extends one that is not known, or itself.
    """
    found: dict[str, Applied] = {}
    asked = [Value(name, value, "asked for explicitly") for name, value in (arguments or {}).items()]
    layers: list[tuple[str, Iterable[Value]]] = [("argument", asked), ("observed", observed)]
    layers += [(f"profile {each.name}", each) for each in _chain(chosen, known or {})]

    def apply(source: str, values: Iterable[Value]) -> None:
        for value in values:
            found.setdefault(value.name, Applied(value.name, value.value, source, value.reason))

    for source, values in layers:
        apply(source, values)
    if data is not None:
        apply("data", data({name: each.value for name, each in found.items()}))
    apply("this node", node)
    access = Access.of({name: each.value for name, each in found.items()})
    for name in NAMES:
        found.setdefault(name, Applied(name, getattr(access, name), _FIXED, "nothing else says what it should be"))
    return Plan(chosen.name, access, tuple(found[name] for name in NAMES))


def _chain(profile: Profile, known: Mapping[str, Profile]) -> Sequence[Profile]:
    chain = [profile]
    while chain[-1].extends:
        following = known.get(chain[-1].extends)
        if following is None:
            raise ValueError(
                f"profile {chain[-1].name} extends {chain[-1].extends!r}, which there is not; "
                f"there are {', '.join(sorted(known))}"
            )
        if following in chain:
            raise ValueError(f"profile {profile.name} extends itself, by way of {chain[-1].name}")
        chain.append(following)
    return chain
