"""Submitting and following jobs.

from holdshort.jobs import BatchInferenceJob, Client

Importing this package imports nothing else; each name is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..storage.errors import (
        BrokerUnavailable,
        HoldshortError,
        IdempotencyConflict,
        NotAllowedNow,
        RefusedJob,
        SettingsError,
        StoreUnavailable,
        UnknownJob,
        UnknownPool,
    )
    from .async_client import AsyncClient, AsyncJob
    from .client import Client, PoolStatus
    from .input import RefusedInput
    from .job import Job
    from .results import ResultRow
    from .rows import Row, RowError
    from .settings import Settings
    from .spec import BatchInferenceJob, CheckpointJob
    from .status import Status

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "BatchInferenceJob",
    "BrokerUnavailable",
    "CheckpointJob",
    "Client",
    "HoldshortError",
    "IdempotencyConflict",
    "Job",
    "NotAllowedNow",
    "PoolStatus",
    "RefusedInput",
    "RefusedJob",
    "ResultRow",
    "Row",
    "RowError",
    "Settings",
    "SettingsError",
    "Status",
    "StoreUnavailable",
    "UnknownJob",
    "UnknownPool",
]

_MODULES = {
    "AsyncClient": ".async_client",
    "AsyncJob": ".async_client",
    "BatchInferenceJob": ".spec",
    "CheckpointJob": ".spec",
    "Client": ".client",
    "Job": ".job",
    "PoolStatus": ".client",
    "RefusedInput": ".input",
    "ResultRow": ".results",
    "Row": ".rows",
    "RowError": ".rows",
    "Settings": ".settings",
    "Status": ".status",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_MODULES.get(name, "..storage.errors"), __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
