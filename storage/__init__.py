"""Where bytes are kept: stores with exclusive create, checkpoints committed on them, and reads that follow a profile.

Importing this package imports nothing else; each name is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loading.prefetch import Prefetch, prefetch
    from .loading.weights import Weights, load_safetensors, open_safetensors

__all__ = ["Prefetch", "Weights", "load_safetensors", "open_safetensors", "prefetch"]

_MODULES = {
    "Prefetch": ".loading.prefetch",
    "Weights": ".loading.weights",
    "load_safetensors": ".loading.weights",
    "open_safetensors": ".loading.weights",
    "prefetch": ".loading.prefetch",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)
