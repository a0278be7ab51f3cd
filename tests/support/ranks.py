"""Ranks of a job, each a process; they find what they do by its name."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from holdshort.storage import checkpoints


def saves_and_leaves(url: str) -> None:
    """Begin a save in the background, and end at once."""
    checkpoints.save_async({"w": np.arange(3_000_000)}, url, 1)


def fails_and_leaves(url: str, log: str) -> None:
    """Begin a save in the background that fails, and end without asking for its result."""
    logging.basicConfig(filename=log)
    checkpoints.save({"w": 1}, url, 1)
    checkpoints.save_async({"w": 2}, url, 1)


def saves_share(url: str, options: dict[str, Any], rank: int, ranks: int, token: str, answer: str) -> None:
    """Save a rank's share, and write down what came of it."""
    try:
        saved = checkpoints.save(
            {"rank": rank, "w": np.full(1000, rank)}, url, 5, rank=rank, ranks=ranks, token=token,
            storage_options=options,
        )  # fmt: skip
        said = f"{saved.manifest.attempt} {len(saved.manifest.files)}"
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    Path(answer).write_text(said)
