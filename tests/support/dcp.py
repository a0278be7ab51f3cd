"""Ranks that save and load with torch.distributed.checkpoint, each a process; they find what they do by its name."""

from __future__ import annotations

import logging
import warnings
from multiprocessing import get_context
from pathlib import Path
from typing import Any


def rank_by_rank(url: str, ranks: int, folder: str) -> None:
    """`saves_and_loads` for each rank, in processes that are forked from this one: torch is imported once."""
    import torch.distributed.checkpoint
    import torch.distributed.tensor  # noqa: F401 - warm

    children = [
        get_context("fork").Process(target=saves_and_loads, args=(url, rank, ranks, folder)) for rank in range(ranks)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()


def saves_and_loads(url: str, rank: int, ranks: int, folder: str) -> None:
    """Save a tensor that is spread over the ranks, which fails first, and load it; write down what came of it."""
    import torch
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    from holdshort.storage import checkpoints
    from holdshort.storage.checkpoints.torch_dcp import HoldshortReader, HoldshortWriter

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks)
    mesh = init_device_mesh("cpu", (ranks,))
    whole = torch.arange(40_000.0).reshape(200, 200)
    state: dict[str, Any] = {"w": distribute_tensor(whole, mesh, [Shard(0)]), "step": 5}
    doomed = HoldshortWriter(url, 5)
    if rank == 1:
        doomed.write_data = _fails  # type: ignore[method-assign]
    try:
        dcp.save(state, storage_writer=doomed)
        failed = ""
    except BaseException as error:
        failed = f"{type(error).__name__}: {error}"
    visible = checkpoints.steps(url)
    dist.barrier()
    dcp.save(state, storage_writer=HoldshortWriter(url, 5))
    found: dict[str, Any] = {"w": distribute_tensor(torch.zeros(200, 200), mesh, [Shard(1)]), "step": 0}
    reader = HoldshortReader(url, 5)
    dcp.load(found, storage_reader=reader)
    loaded = f"{visible} {torch.equal(found['w'].full_tensor(), whole)} {found['step']} {reader.step}"
    Path(f"{folder}/answer-{rank}").write_text(f"{failed}|{loaded}")
    dist.destroy_process_group()


def _fails(plan: Any, planner: Any) -> Any:
    raise RuntimeError("out of paper")
