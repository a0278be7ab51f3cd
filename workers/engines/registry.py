"""Finds engines by name: our own two, and those that packages register as `holdshort.engines`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ...storage.errors import EngineError
from .names import nearest
from .protocol import Engine

GROUP = "holdshort.engines"
"""The entry-point group in which other packages register engines."""

_OWN = {"minilm": (".minilm", "MiniLM"), "function": (".function", "FunctionEngine")}


def names() -> list[str]:
    """The names of all engines that are installed."""
    return sorted({*_OWN, *_registered()})


def create(name: str, options: Mapping[str, Any]) -> Engine:
    """A new engine, not loaded yet.

    Args:
        name: as in a pool's `engine`. Our own two come first; others are looked for among the entry points.
        options: keyword arguments of the engine's class.

    Raises:
        EngineError: no engine of that name, it can't be imported, or it does not take these options; the message
            names the nearest right name and all known ones.
    """
    kind = _find(name)
    parameters = inspect.signature(kind).parameters.values()
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    listed = f" Its options: {', '.join(known)}." if known else " It has no options."
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for option in options:
        if option not in known and not takes_any:
            raise EngineError(f"The engine {name!r} has no option {option!r}{nearest(option, known)}{listed}")
    for parameter in parameters:
        if parameter.name in known and parameter.default is parameter.empty and parameter.name not in options:
            raise EngineError(f"The engine {name!r} needs the option {parameter.name!r}.{listed}")
    return kind(**options)


def _find(name: str) -> Callable[..., Engine]:
    if name in _OWN:
        module, attribute = _OWN[name]
        return getattr(import_module(module, __package__), attribute)
    found = _registered().get(name)
    if found is None:
        known = names()
        raise EngineError(f"No engine is called {name!r}{nearest(name, known)} Known engines: {', '.join(known)}.")
    values = {point.value for point in found}
    if len(values) > 1:
        raise EngineError(
            f"Several packages register an engine called {name!r}: {', '.join(sorted(values))}. Uninstall all but one."
        )
    try:
        return found[0].load()
    except (ImportError, AttributeError) as error:
        raise EngineError(
            f"The engine {name!r} is registered as {found[0].value}, but that can't be imported: {error}. "
            f"Install what is missing, or repair the package that registers it."
        ) from error


def _registered() -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, []).append(point)
    return found
