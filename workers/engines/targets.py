"""Finds what a "module:name" of the configuration names, and which code it is."""

from __future__ import annotations

import functools
import hashlib
import inspect
import pkgutil
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from ...storage.errors import EngineError
from .names import nearest


def check(option: str, target: object) -> str:
    """The target itself, if it has the form "module:name".

    Raises:
        EngineError: it does not.
    """
    if isinstance(target, str):
        module, colon, name = target.partition(":")
        if colon and all(part.isidentifier() for part in [*module.split("."), *name.split(".")]):
            return target
    raise EngineError(f'{option} = {target!r} is not of the form "module:name", such as "my_model:embed".')


def find(option: str, target: str) -> Any:
    """The object that the target names. The current directory is searched first, as `python -m` does.

    Raises:
        EngineError: it can't be imported; names the nearest right name.
    """
    module_name, _, path = target.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    found: Any = _module(option, target, module_name)
    at = module_name
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            public = [known for known in dir(found) if not known.startswith("_")]
            raise EngineError(f"{option} = {target!r}: {at} has no attribute {name!r}{nearest(name, public)}") from None
        at = f"{at}.{name}"
    return found


def source_digest(found: Any) -> str:
    """First 12 hex digits of the sha256 of the file that defines the object; "" where it can't be read."""
    while isinstance(found, functools.partial):
        found = found.func
    found = inspect.unwrap(found)
    code = found if inspect.isroutine(found) or isinstance(found, type) else type(found)
    try:
        file = inspect.getsourcefile(code)
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12] if file else ""
    except (TypeError, OSError):
        return ""


def _module(option: str, target: str, name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise EngineError(
                f"{option} = {target!r}: {name} needs the module {error.name!r}, which is not installed."
            ) from error
        raise EngineError(
            f"{option} = {target!r}: there is no module {error.name!r}{nearest(name, _modules_beside(name))} "
            f"It is looked for in the current directory ({Path.cwd()}) and among the installed packages."
        ) from None
    except Exception as error:
        raise EngineError(f"{option} = {target!r}: importing {name} failed: {type(error).__name__}: {error}") from error


def _modules_beside(name: str) -> Iterable[str]:
    parent = name.rpartition(".")[0]
    if parent not in sys.modules:
        return [found.name for found in pkgutil.iter_modules([str(Path.cwd())])]
    return [f"{parent}.{found.name}" for found in pkgutil.iter_modules(getattr(sys.modules[parent], "__path__", []))]
