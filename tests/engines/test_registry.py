"""Engines are found by name, and whatever is wrong is named with the nearest right thing."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from holdshort.storage.errors import EngineError
from holdshort.workers.engines import registry
from holdshort.workers.engines.protocol import BaseEngine


class Foreign(BaseEngine):
    def __init__(self, *, size: int, colour: str = "red") -> None:
        self.size = size
        self.colour = colour


class Open(BaseEngine):
    def __init__(self, **options: Any) -> None:
        self.options = options


def register(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> None:
    found = [EntryPoint(name, value, registry.GROUP) for name, value in points]
    monkeypatch.setattr(registry, "entry_points", lambda group: found if group == registry.GROUP else [])


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> str:
    """A name under which an entry point finds this module."""
    monkeypatch.setitem(sys.modules, "engines_of_another_package", sys.modules[__name__])
    return "engines_of_another_package"


def test_our_own_engines_need_no_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    assert registry.names() == ["function", "minilm"]
    assert type(registry.create("minilm", {"threads": 1})).__name__ == "MiniLM"
    assert type(registry.create("function", {"target": "json:dumps"})).__name__ == "FunctionEngine"


def test_nothing_heavy_is_imported_before_an_engine_loads() -> None:
    code = (
        "import sys; from holdshort.workers.engines import registry; registry.create('minilm', {}); "
        "print(sorted({'onnxruntime', 'tokenizers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_engine_is_refused_with_the_nearest_and_all_known(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, ("vision", "a.b:C"))
    with pytest.raises(EngineError, match=r"'minillm'; did you mean 'minilm'\? .*: function, minilm, vision\."):
        registry.create("minillm", {})
    with pytest.raises(EngineError, match=r"No engine is called 'zzz'\. Known"):
        registry.create("zzz", {})


def test_an_unknown_option_is_refused_with_the_nearest_and_all_known() -> None:
    expected = r"'minilm' has no option 'thread'; did you mean 'threads'\? Its options: threads, max_tokens, weights\."
    with pytest.raises(EngineError, match=expected):
        registry.create("minilm", {"thread": 2})


def test_a_missing_option_is_named() -> None:
    with pytest.raises(EngineError, match="'function' needs the option 'target'"):
        registry.create("function", {})


def test_packages_add_engines(monkeypatch: pytest.MonkeyPatch, here: str) -> None:
    register(monkeypatch, ("foreign", f"{here}:Foreign"), ("open", f"{here}:Open"))
    engine = registry.create("foreign", {"size": 3})
    assert isinstance(engine, Foreign)
    assert (engine.size, engine.colour) == (3, "red")
    with pytest.raises(EngineError, match="has no option 'sise'; did you mean 'size'"):
        registry.create("foreign", {"sise": 3})
    taken = registry.create("open", {"anything": 1})
    assert isinstance(taken, Open)
    assert taken.options == {"anything": 1}


def test_no_package_can_replace_our_own_engine(monkeypatch: pytest.MonkeyPatch, here: str) -> None:
    register(monkeypatch, ("minilm", f"{here}:Foreign"))
    assert not isinstance(registry.create("minilm", {}), Foreign)


def test_two_packages_that_claim_one_name_are_refused(monkeypatch: pytest.MonkeyPatch, here: str) -> None:
    register(monkeypatch, ("foreign", f"{here}:Foreign"), ("foreign", f"{here}:Open"))
    with pytest.raises(EngineError, match="Several packages register an engine called 'foreign'"):
        registry.create("foreign", {"size": 1})


def test_an_engine_that_cannot_be_imported_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, here: str) -> None:
    register(monkeypatch, ("gone", "no_such_package.engine:Gone"), ("bad", f"{here}:Absent"))
    with pytest.raises(EngineError, match=r"registered as no_such_package.engine:Gone.*No module named"):
        registry.create("gone", {})
    with pytest.raises(EngineError, match="Absent"):
        registry.create("bad", {})
