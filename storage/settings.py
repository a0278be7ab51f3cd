"""The configuration file, and what of it concerns storage: profiles of one's own, and how far a scan goes."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import platformdirs

from ..profiles import BUILT_IN, Profile, extension, resolve
from .errors import SettingsError

FILE = "holdshort.toml"
_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def config_file() -> Path | None:
    """The file in use: $HOLDSHORT_CONFIG, ./holdshort.toml, or the one in the user's configuration folder."""
    named = os.environ.get("HOLDSHORT_CONFIG")
    if named:
        path = Path(named)
        if not path.is_file():
            raise SettingsError(f"HOLDSHORT_CONFIG names {path}, which is no file.")
        return path
    for folder in (Path(), Path(platformdirs.user_config_dir("holdshort", appauthor=False))):
        if (folder / FILE).is_file():
            return (folder / FILE).absolute()
    return None


def known_profiles() -> Mapping[str, Profile]:
    """The profiles that come with Holdshort, and those of the configuration file. Raises SettingsError."""
    path = config_file()
    if path is None:
        return BUILT_IN
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("profiles", {})
        own = profiles_of(table, origin=path.name)
    except (OSError, tomllib.TOMLDecodeError, ValueError) as error:
        raise SettingsError(f"{path}: {error}") from error
    return MappingProxyType({**BUILT_IN, **own})


@dataclass(frozen=True, slots=True)
class ScanLimits:
    """How far one scan goes (see scanning.scan), and for how long its result counts.

    Attributes:
        most_s: how long it takes at most, but for the request then under way.
        most_objects: how many objects it counts at most, but for the page then being counted.
        fresh_s: after how long what was counted is counted anew.

    Raises:
        ValueError: one of them is no number above 0.
    """

    most_s: float = 20.0
    most_objects: int = 1_000_000
    fresh_s: float = 7 * 86400.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value: Any = getattr(self, each.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"scan.{each.name} is {value!r}; it has to be a number above 0")

    @classmethod
    def of(cls, table: Any) -> ScanLimits:
        """From a `[scan]` table. Raises ValueError."""
        names = [each.name for each in fields(cls)]
        if not isinstance(table, dict):
            raise ValueError("scan has to be a table")
        values = cast("dict[str, Any]", table)
        for name in values:
            if name not in names:
                raise ValueError(f"scan has no key {name!r}; there are {', '.join(names)}")
        return cls(**values)

    @classmethod
    def load(cls) -> ScanLimits:
        """From HOLDSHORT_SCAN (JSON), over the configuration file. Raises SettingsError."""
        table: dict[str, Any] = {}
        path, origin = config_file(), "HOLDSHORT_SCAN"
        try:
            if path is not None:
                origin = str(path)
                table = tomllib.loads(path.read_text(encoding="utf-8")).get("scan", {})
                cls.of(table)
            given = os.environ.get("HOLDSHORT_SCAN")
            if given:
                origin = "HOLDSHORT_SCAN"
                cls.of(over := json.loads(given))
                table = {**table, **over}
            return cls.of(table)
        except (OSError, ValueError) as error:  # of TOML and JSON, too
            raise SettingsError(f"{origin}: {error}") from error


def profiles_of(table: Any, *, origin: str) -> dict[str, Profile]:
    """Profiles from `[profiles.NAME]` tables.

    Raises:
        ValueError: names the table and the key, and what it may be.
    """
    if not isinstance(table, dict):
        raise ValueError("profiles has to hold tables, such as [profiles.mine]")
    own: dict[str, Profile] = {}
    for name, content in cast("dict[str, Any]", table).items():
        where = f"profiles.{name}"
        if not name.isidentifier() or name in BUILT_IN or name == "auto":
            raise ValueError(f"{where}: a profile of your own needs a name of letters and digits that is not taken")
        if not isinstance(content, dict):
            raise ValueError(f"{where} has to be a table")
        values = cast("dict[str, Any]", content)
        extends = values.get("extends")
        if not isinstance(extends, str):
            raise ValueError(f'{where} has to say which profile it changes, e.g. extends = "training"')
        try:
            given = {key: _amount(key, value) for key, value in values.items() if key != "extends"}
            own[name] = extension(name, extends, given, origin=origin)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    for name, profile in own.items():
        try:
            resolve(profile, {**BUILT_IN, **own})
        except ValueError as error:
            raise ValueError(f"profiles.{name}: {error}") from error
    return own


def amount(text: str) -> int:
    """Bytes of "64MiB", "1.5 GB" or a plain number of bytes; ValueError otherwise."""
    for unit, factor in {**_UNITS, "": 1}.items():
        number = text.removesuffix(unit).strip()
        if text.endswith(unit) and number.replace(".", "", 1).isdigit():
            return int(float(number) * factor)
    raise ValueError(f"{text!r} is no size; write a number of bytes, or one with a unit: {', '.join(_UNITS)}")


def _amount(key: str, value: Any) -> Any:
    """A size such as "64MiB" in bytes; everything else as it is."""
    if not (isinstance(value, str) and key.endswith("_bytes")):
        return value
    try:
        return amount(value)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
