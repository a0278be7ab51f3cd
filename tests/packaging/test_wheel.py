"""The wheel holds all that is needed, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LAYERS = ("cli", "jobs", "profiles", "storage", "workers", "gateway")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as pip does it, from a copy, so that the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in [*LAYERS, "pyproject.toml", "README.md", "LICENSE", "NOTICE"]:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / "source" / name)
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, folder / "source"],
        capture_output=True, text=True,
    )  # fmt: skip
    if built.returncode and "No matching distribution" in built.stderr:
        pytest.skip("building needs a package index, or setuptools")
    assert built.returncode == 0, built.stderr
    (found,) = folder.glob("holdshort-*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_holds_every_module_the_types_and_the_tokenizer(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for layer in LAYERS:
        for path in (ROOT / layer).rglob("*.py"):
            assert f"holdshort/{path.relative_to(ROOT)}" in names
    assert {"holdshort/jobs/py.typed", "holdshort/workers/engines/minilm/tokenizer.json"} <= names
    strange = [name for name in names if not name.startswith(("holdshort/", "holdshort-"))]
    assert not strange
    assert not [name for name in names if "test" in name or "__pycache__" in name]
    assert [name for name in names if name.endswith("licenses/LICENSE")]


@pytest.mark.slow
def test_the_wheel_names_the_command_and_the_engines(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
    points = ConfigParser()
    points.read_string(archive.read(name).decode())
    assert dict(points["console_scripts"]) == {"holdshort": "holdshort.cli:main"}
    assert set(points["holdshort.engines"]) >= {"minilm", "function"}
