"""The public face: its names stay, and importing it is light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import holdshort.jobs
from holdshort.storage import checkpoints

NAMES = [
    "AsyncClient", "AsyncJob", "BatchInferenceJob", "BrokerUnavailable", "CheckpointJob", "Client", "HoldshortError",
    "IdempotencyConflict", "Job", "NotAllowedNow", "PoolStatus", "RefusedInput", "RefusedJob", "ResultRow", "Row",
    "RowError", "Settings", "SettingsError", "Status", "StoreUnavailable", "UnknownJob", "UnknownPool",
]  # fmt: skip
CHECKPOINTS = [
    "CopiedFile", "Leftover", "Manifest", "Pruned", "Restored", "RestoredState", "Saved", "Saving", "Verified",
    "Warmed", "collect", "discard", "manifest_of", "newest_whole", "prune", "restore", "save", "save_async", "steps",
    "verify", "warm",
]  # fmt: skip
HEAVY = {"celery", "kombu", "pydantic", "pydantic_settings", "fsspec", "numpy", "httpx", "rich", "typer", "orjson"}


def test_the_public_names_are_these() -> None:
    assert sorted(holdshort.jobs.__all__) == sorted(NAMES)
    assert dir(holdshort.jobs) == sorted(NAMES)


def test_every_public_name_is_there_and_has_a_docstring() -> None:
    for name in NAMES:
        assert getattr(holdshort.jobs, name).__doc__, name


def test_a_name_that_is_not_public_is_told_apart() -> None:
    assert not hasattr(holdshort.jobs, "Clinet")


def _loaded(statement: str, folder: Path) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    return {module.partition(".")[0] for module in ran.stdout.split()}


def test_importing_the_sdk_imports_nothing_heavy(tmp_path: Path) -> None:
    assert not _loaded("import holdshort.jobs", tmp_path) & HEAVY


def test_importing_the_command_line_imports_nothing_heavy_but_typer(tmp_path: Path) -> None:
    assert not _loaded("import holdshort.cli.app", tmp_path) & (HEAVY - {"typer", "rich"})


def test_the_public_names_of_checkpoints_are_these() -> None:
    assert sorted(checkpoints.__all__) == dir(checkpoints) == CHECKPOINTS
    for name in CHECKPOINTS:
        assert getattr(checkpoints, name).__doc__, name


def test_saving_checkpoints_needs_neither_torch_nor_numpy(tmp_path: Path) -> None:
    loaded = _loaded(
        "from holdshort.storage import checkpoints\n"
        "checkpoints.save({'a': b'x' * 1000, 'b': [1.5]}, 'memory://x/run', 1)\n"
        "assert checkpoints.restore('memory://x/run').state == {'a': b'x' * 1000, 'b': [1.5]}",
        tmp_path,
    )
    assert not loaded & {"torch", "numpy", "pydantic", "celery", "kombu", "s3fs"}
    assert not _loaded("from holdshort.storage import checkpoints", tmp_path) & HEAVY
