"""Exit codes of the `holdshort` command, and which error gives which."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Documented in docs/reference/cli.md."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    NOT_FOUND = 4
    NOT_ALL_OK = 5
    UNAVAILABLE = 6
    CONFIGURATION = 7
    INTERRUPTED = 130


def exit_of(error: Exception) -> Exit:
    """The exit code for an error of ours."""
    from ..storage import errors

    match error:
        case errors.UnknownJob() | errors.UnknownPool() | errors.UnknownModel() | errors.ObjectNotFound():
            return Exit.NOT_FOUND
        case errors.RefusedJob() | errors.NotAllowedNow():
            return Exit.REFUSED
        case errors.StoreUnavailable() | errors.BrokerUnavailable() | errors.ModelUnavailable():
            return Exit.UNAVAILABLE
        case (
            errors.SettingsError()
            | errors.StoreRefused()
            | errors.BrokerRefused()
            | errors.LaneError()
            | errors.EngineError()
        ):
            return Exit.CONFIGURATION
        case _:
            return Exit.FAILED
