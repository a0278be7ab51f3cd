"""How the code hangs together: what imports what, and what none of it does."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LAYERS = ["profiles", "storage", "jobs", "workers", "gateway", "cli"]
"""Lowest first; each may import those before it."""
PURE = [
    "profiles/", "storage/reading/ahead.py", "storage/reading/pace.py", "storage/reading/ranges.py",
    "storage/caching/layout.py", "storage/caching/eviction.py", "storage/writing/parts.py",
    "storage/loading/header.py",
    "jobs/policy/", "jobs/explain.py", "workers/decide.py", "workers/batching.py", "workers/suspects.py",
    "workers/lane/control.py", "workers/lane/duty.py", "workers/lane/linger.py", "workers/lane/preemptions.py",
    "workers/lane/reading.py", "workers/lane/record.py", "workers/lane/verdict.py", "gateway/promise.py",
    "workers/probe/policy.py",
]  # fmt: skip
IO_MODULES = {
    "asyncio", "celery", "fsspec", "http", "httpx", "io", "kombu", "logging", "multiprocessing", "os", "pathlib",
    "queue", "random", "secrets", "select", "shutil", "signal", "socket", "sqlite3", "subprocess", "sys", "tempfile",
    "threading", "time", "urllib",
}  # fmt: skip


@cache
def _modules() -> dict[str, ast.Module]:
    """Every module by its path below the root."""
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_bytes())
        for layer in LAYERS
        for path in sorted((ROOT / layer).rglob("*.py"))
    }


def _imports(path: str) -> Iterator[tuple[ast.stmt, str]]:
    """(statement, dotted name) of every import of a module; ours by their folders, as "jobs.ledger.layout"."""
    package = path.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(_modules()[path]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node, node.module or ""
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            for alias in node.names:
                yield node, ".".join([*base, *([node.module] if node.module else []), alias.name])


def test_every_folder_of_modules_is_in_the_package_list() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        settings = tomllib.load(file)["tool"]["setuptools"]
    folders = {
        "holdshort." + ".".join(path.parent.relative_to(ROOT).parts)
        for layer in LAYERS
        for path in (ROOT / layer).rglob("__init__.py")
    }
    assert sorted(settings["packages"]) == sorted(folders)
    layers = {folder for folder in LAYERS if (ROOT / folder).exists()}
    assert settings["package-dir"] == {f"holdshort.{layer}": layer for layer in layers}
    for path in _modules():
        assert (ROOT / path).parent.joinpath("__init__.py").exists(), path
    assert not (ROOT / "__init__.py").exists()


def test_arrows_run_only_downward() -> None:
    upward: list[str] = []
    for path in _modules():
        layer = path.partition("/")[0]
        for node, name in _imports(path):
            other = name.partition(".")[0]
            assert other != "holdshort", f"{path}:{node.lineno}: inside the package imports are relative"
            is_ours = isinstance(node, ast.ImportFrom) and node.level > 0
            if is_ours and LAYERS.index(other) > LAYERS.index(layer):
                upward.append(f"{path}:{node.lineno} imports {name}")
    assert not upward


def test_there_is_no_circle_of_modules() -> None:
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in _modules()}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        graph[name] = set()
        for node in _modules()[path].body:  # what is imported inside a function, or for types only, makes no circle
            if isinstance(node, ast.ImportFrom) and node.level:
                for found, target in _imports(path):
                    if found is node:
                        graph[name].add(target if target in modules else target.rpartition(".")[0])
        graph[name].discard(name)
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> None:
        assert name not in trail, " → ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for other in graph.get(name, set()):
                visit(other, [*trail, name])
            done.add(name)

    for name in graph:
        visit(name, [])


def test_what_is_pure_imports_nothing_that_acts() -> None:
    found = [path for path in _modules() if path.startswith(tuple(PURE))]
    assert len(found) >= 6
    for path in found:
        for node, name in _imports(path):
            assert name.partition(".")[0] not in IO_MODULES, f"{path}:{node.lineno} imports {name}"


def test_nothing_is_pickled() -> None:
    for path in _modules():
        for node, name in _imports(path):
            first = name.partition(".")[0]
            assert first not in {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}, (
                f"{path}:{node.lineno} imports {name}"
            )


def test_no_except_is_bare_and_nothing_is_printed() -> None:
    for path, tree in _modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{path}:{node.lineno}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"print", "eval", "exec"}, f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", sorted(_modules()))
def test_a_module_says_what_it_is_for(path: str) -> None:
    assert ast.get_docstring(_modules()[path]), path


def test_every_registered_engine_can_be_imported() -> None:
    from importlib import import_module

    with (ROOT / "pyproject.toml").open("rb") as file:
        points = tomllib.load(file)["project"]["entry-points"]["holdshort.engines"]
    for target in points.values():
        module, _, name = target.partition(":")
        assert callable(getattr(import_module(module), name))
