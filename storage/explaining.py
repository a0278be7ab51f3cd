"""Which profile counts for a URL, with which values, and why: without asking any store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

from ..profiles import Choice, Plan, choose, resolve
from ..profiles.pattern import Observed, Seen, folder_of
from ..profiles.profile import Profile, Value
from ..profiles.sizing import Node, fit
from ..profiles.working_set import Counted, fit_data
from .counts import Counts, behind, may_be_counted
from .errors import MissingExtra, SettingsError
from .node import cache_disk, this_node
from .patterns import seen_of
from .settings import known_profiles

_PROTOCOLS = {"s3a": "s3", "gcs": "gs"}
"""By the name that the file system itself goes by first."""


def explain(url: str, arguments: Mapping[str, Any] | None = None) -> tuple[Choice, Plan]:
    """For "training::s3://bucket/key", or a URL without a prefix, which is taken for `auto::`.

    Raises:
        SettingsError: no such profile or value.
    """
    known = known_profiles()
    name, _, path = _split(url)
    choice = choice_of(path, known, name)
    if choice.source == "nothing" and (seen := seen_at(url)):
        observed = Observed()
        observed.learn(seen)
        pattern = observed.pattern()
        choice = choice if pattern is None else pattern.choice(known)
    return choice, plan_of(choice.profile, known, arguments, choice.values, counted_at(url))


def counted_at(url: str) -> Counted | None:
    """How much lies under a URL, or the nearest folder above it that was counted, if that was not too long ago.

    Stores that are reached with other options than the environment's are other stores.

    Raises:
        SettingsError: the configuration can't be used.
    """
    _, protocol, path = _split(url)
    url = f"{_PROTOCOLS.get(protocol, protocol)}://{path}"
    if not may_be_counted(url):
        return None  # most often, and to make a client takes a while
    try:
        fs, path = behind(url, {})
    except (MissingExtra, ImportError, ValueError):
        return None
    return Counts(fs).of(path)


def seen_at(url: str) -> list[Seen]:
    """What processes of this machine have told lately of how the folder of a URL is used, newest first.

    It decides where neither a name nor the path does.

    Raises:
        SettingsError: the cache's folder can't be told from the configuration.
    """
    _, protocol, path = _split(url)
    return seen_of(_PROTOCOLS.get(protocol, protocol), folder_of(path)) if protocol else []


def _split(url: str) -> tuple[str, str, str]:
    """(profile's name or "auto", protocol or "", path)."""
    prefix, separator, rest = url.partition("::")
    name, url = (prefix, rest) if separator else ("auto", url)
    protocol, separator, path = url.partition("://")
    return (name, protocol, path) if separator else (name, "", url)


def choice_of(path: str, known: Mapping[str, Profile], name: str) -> Choice:
    """The profile for a path. Raises SettingsError naming those that there are."""
    if name != "auto" and name not in known:
        raise SettingsError(f"No profile is called {name!r}; there are auto, {', '.join(known)}.")
    return choose(path, known, name=name)


def plan_of(
    profile: Profile,
    known: Mapping[str, Profile],
    arguments: Mapping[str, Any] | None = None,
    observed: Iterable[Value] = (),
    counted: Counted | None = None,
) -> Plan:
    """Its values on this machine, for data of that size, if it is known. Raises SettingsError."""
    data = None if counted is None else partial(fit_data, counted, _node_for_data())
    try:
        return resolve(profile, known, arguments=arguments, observed=observed, data=data, node=fit(_node()))
    except ValueError as error:
        raise SettingsError(f"The values of profile {profile.name} can't be used: {error}.") from error


@cache
def _node() -> Node:
    return replace(this_node(), disk=cache_disk())


@cache
def _node_for_data() -> Node:
    return replace(_node(), ram=cache_disk("memory"))
