"""Documents for the demo: the docstrings of Python's own standard library, read from its source files."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_WORDS = range(30, 400)
_LEFT_OUT = {
    "test",
    "tests",
    "idlelib",
    "site-packages",
    "dist-packages",
    "lib2to3",
    "turtledemo",
    "__pycache__",
}


def write_documents(folder: Path, count: int) -> int:
    """Write up to `count` documents into a folder, one file each; returns how many there were."""
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for name, text in _docstrings():
        if written == count:
            break
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
        written += 1
    return written


def _docstrings() -> Iterator[tuple[str, str]]:
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if _LEFT_OUT.intersection(relative.parts) or any(part.startswith("_") for part in relative.parts[:-1]):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # files that show how errors look
            continue
        module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        seen: set[str] = set()
        for name, node in _definitions(tree, module):
            text = ast.get_docstring(node)
            if text and name not in seen and len(text.split()) in _WORDS:
                seen.add(name)
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
