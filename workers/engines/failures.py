"""What an exception of an engine or of a user's function means for a row."""

from __future__ import annotations

import math

from ...jobs.rows import RowError
from ...storage.errors import BrokerUnavailable, HoldshortError, StoreUnavailable

_MESSAGE_CHARS = 2000
_MAY_PASS = (ConnectionError, TimeoutError, StoreUnavailable, BrokerUnavailable)


def retryable(error: BaseException) -> bool:
    """Whether the same row may succeed later.

    So it is for an exception whose attribute `retryable` is True, and, unless that attribute is False, for
    connection errors, time-outs and a store or broker that is away.
    """
    said = getattr(error, "retryable", None)
    if isinstance(said, bool):
        return said
    return isinstance(error, _MAY_PASS)


def row_error(error: BaseException) -> RowError:
    """The row's error, with code "engine_error".

    The message is the exception's type and its own text, at most 2,000 characters; never a traceback, which could
    carry what the submitter must not see. An attribute `retry_after_s` (seconds) is passed on.
    """
    return RowError("engine_error", _message(error), retryable(error), _retry_after_s(error))


def _message(error: BaseException) -> str:
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 - an exception that cannot even be printed must not hide the failure
        said = ""
    name = type(error).__name__
    if not said:
        return name
    text = said if isinstance(error, HoldshortError) else f"{name}: {said}"
    return text if len(text) <= _MESSAGE_CHARS else text[: _MESSAGE_CHARS - 1] + "…"


def _retry_after_s(error: BaseException) -> float | None:
    said = getattr(error, "retry_after_s", None)
    if isinstance(said, bool) or not isinstance(said, int | float):
        return None
    return float(said) if math.isfinite(said) and said >= 0 else None
