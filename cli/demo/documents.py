"""Documents for the demo: the docstrings of Python's own standard library, read from its source files."""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_WORDS = range(30, 400)


def write_documents(folder: Path, count: int) -> int:
    """Write up to `count` documents into a folder, one file each; returns how many there were.

    They are taken evenly from the whole library, so the choice is the same each time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = dict(_docstrings())
    names = list(found)
    chosen = names if len(names) <= count else [names[place * len(names) // count] for place in range(count)]
    for name in chosen:
        (folder / f"{name}.txt").write_text(found[name], encoding="utf-8")
    return len(chosen)


def _docstrings() -> Iterator[tuple[str, str]]:
    library = Path(sysconfig.get_path("stdlib"))
    for module in sorted(sys.stdlib_module_names):
        if module.startswith("_") or module in ("antigravity", "idlelib", "lib2to3", "this", "turtledemo"):
            continue
        plain = library / f"{module}.py"
        for path in [plain] if plain.exists() else sorted((library / module).glob("[!_]*.py")):
            name = ".".join(path.relative_to(library).with_suffix("").parts)
            yield from _documents(path.read_bytes(), name)


def _documents(source: bytes, module: str) -> Iterator[tuple[str, str]]:
    for name, node in _definitions(ast.parse(source), module):
        text = ast.get_docstring(node)
        if text and "._" not in name and len(text.split()) in _WORDS:
            yield name, f"{name}\n\n{text}\n"


def _definitions(
    tree: ast.Module, module: str
) -> Iterator[tuple[str, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    yield module, tree
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{module}.{node.name}", node
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                        yield f"{module}.{node.name}.{inner.name}", inner
