"""Which profile counts for a URL, with which values, and why: without asking any store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from ..profiles import Choice, Plan, choose, resolve
from ..profiles.profile import Profile, Value
from ..profiles.sizing import fit
from .errors import SettingsError
from .node import cache_disk, this_node
from .settings import known_profiles


def explain(url: str, arguments: Mapping[str, Any] | None = None) -> tuple[Choice, Plan]:
    """For "training::s3://bucket/key", or a URL without a prefix, which is taken for `auto::`.

    Raises:
        SettingsError: no such profile or value.
    """
    known = known_profiles()
    prefix, separator, rest = url.partition("::")
    name, path = (prefix, rest) if separator else ("auto", url)
    choice = choice_of(path.partition("://")[2] or path, known, name)
    return choice, plan_of(choice.profile, known, arguments)


def choice_of(path: str, known: Mapping[str, Profile], name: str) -> Choice:
    """The profile for a path. Raises SettingsError naming those that there are."""
    if name != "auto" and name not in known:
        raise SettingsError(f"No profile is called {name!r}; there are auto, {', '.join(known)}.")
    return choose(path, known, name=name)


def plan_of(profile: Profile, known: Mapping[str, Profile], arguments: Mapping[str, Any] | None = None) -> Plan:
    """Its values on this machine. Raises SettingsError."""
    try:
        return resolve(profile, known, arguments=arguments, node=node_values())
    except ValueError as error:
        raise SettingsError(f"The values of profile {profile.name} can't be used: {error}.") from error


@cache
def node_values() -> tuple[Value, ...]:
    """What fits this machine."""
    return fit(replace(this_node(), disk=cache_disk()))
