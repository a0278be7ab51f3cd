"""Checkpoints: whole steps in a store, or none.

    from holdshort.storage import checkpoints

    checkpoints.save(model.state_dict(), "checkpoint::s3://bucket/runs/7", step=1000)
    state = checkpoints.restore("checkpoint::s3://bucket/runs/7").state

Importing this package imports nothing else; each name is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .by_url import (
        Pruned,
        RestoredState,
        Verified,
        collect,
        discard,
        manifest_of,
        newest_whole,
        prune,
        restore,
        steps,
        verify,
        warm,
    )
    from .collecting import Leftover
    from .manifest import CopiedFile, Manifest
    from .restoring import Restored
    from .saving import Saved, Saving, save, save_async
    from .warming import Warmed

__all__ = [
    "CopiedFile",
    "Leftover",
    "Manifest",
    "Pruned",
    "Restored",
    "RestoredState",
    "Saved",
    "Saving",
    "Verified",
    "Warmed",
    "collect",
    "discard",
    "manifest_of",
    "newest_whole",
    "prune",
    "restore",
    "save",
    "save_async",
    "steps",
    "verify",
    "warm",
]

_MODULES = {
    "CopiedFile": ".manifest",
    "Leftover": ".collecting",
    "Manifest": ".manifest",
    "Restored": ".restoring",
    "Saved": ".saving",
    "Saving": ".saving",
    "Warmed": ".warming",
    "save": ".saving",
    "save_async": ".saving",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_MODULES.get(name, ".by_url"), __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
