"""Every error of Holdshort, as one tree.

    HoldshortError
    ├── StoreError
    │   ├── StoreUnavailable      may work again later: worth waiting for
    │   │   └── StoreFull         no space left
    │   ├── ObjectNotFound
    │   ├── StoreRefused          this store can't keep the promises
    │   ├── ObjectChanged         it was replaced while it was read
    │   ├── AttemptLost           a save that can't be committed any more
    │   ├── Unreadable            a file to copy is missing, or not what it was
    │   ├── UploadGone            an object in parts that can't be finished any more
    │   └── Corrupt               bytes are not what was written
    ├── SettingsError             configuration
    ├── RefusedJob                a job that can't be accepted as it stands
    │   ├── RefusedInput          its input, line by line (jobs/input)
    │   └── IdempotencyConflict   its key was used for other content
    ├── UnknownJob
    ├── UnknownPool
    ├── NotAllowedNow             the job's state forbids it
    ├── BrokerError
    │   ├── BrokerUnavailable     may work again later
    │   └── BrokerRefused         this broker can't keep the promises
    ├── LaneError                 this host's lane maps can't be used
    └── EngineError               an engine that can't be loaded or used
        ├── MissingExtra          an optional dependency is not installed
        ├── UnknownModel
        ├── ModelUnavailable      a model, or its weights, can't be had for now
        └── Interrupted           a micro-batch was stopped from outside

Messages say what was wrong, where, and what to do about it.
"""

from __future__ import annotations


class HoldshortError(Exception):
    """Base of everything that Holdshort raises on purpose."""


class StoreError(HoldshortError):
    """Raised when the store cannot do what was asked."""


class StoreUnavailable(StoreError):
    """Raised when the store does not answer for now; the same call may work later."""


class StoreFull(StoreUnavailable):
    """Raised when the store has no space left; nothing of the object was kept."""


class ObjectNotFound(StoreError):
    """Raised when an object that was asked for does not exist."""


class StoreRefused(StoreError):
    """Raised when a store lacks what exactly-once rests on, such as exclusive create."""


class Corrupt(StoreError):
    """Raised when stored bytes do not match their checksum or format."""


class ObjectChanged(StoreError):
    """Raised when an object was replaced or removed while it was read; nothing of the new content was handed out.

    Args:
        path: the object.
        was_asked_for: whether its old version was wanted, and the store does not keep it.
    """

    def __init__(self, path: str, *, was_asked_for: bool = False) -> None:
        unkept = ", and the store keeps no older version of it" if was_asked_for else ""
        super().__init__(
            f"{path} was replaced or removed while it was read{unkept}. Open it again to read what is there now."
        )


class AttemptLost(StoreError):
    """Raised when a save can't be committed any more, as a rank failed or files were collected; nothing is visible."""


class Unreadable(StoreError):
    """Raised when a file that is to be copied is missing, was written again, or is not what its manifest says.

    Args:
        code: a short stable name, as rows of jobs have it.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class UploadGone(StoreError):
    """Raised when the parts of an object that was begun are not there any more, or don't make the object."""


class SettingsError(HoldshortError):
    """Raised when the configuration cannot be used; names the key and the cure."""


class RefusedJob(HoldshortError):
    """Raised when a job cannot be accepted as it stands; nothing was accepted."""


class IdempotencyConflict(RefusedJob):
    """Raised when an idempotency key was used before for a job with different content."""


class UnknownJob(HoldshortError):
    """Raised when the store holds no job of that id."""


class UnknownPool(HoldshortError):
    """Raised when no pool of that name is configured."""


class NotAllowedNow(HoldshortError):
    """Raised when a job's state forbids what was asked, such as retrying a running job."""


class BrokerError(HoldshortError):
    """Raised when the broker cannot do what was asked."""


class BrokerUnavailable(BrokerError):
    """Raised when the broker cannot be reached for now."""


class BrokerRefused(BrokerError):
    """Raised when a broker or its settings would break a promise, with the reason."""


class LaneError(HoldshortError):
    """Raised when the maps that carry lane signals on this host cannot be used."""


class EngineError(HoldshortError):
    """Raised when an engine cannot be found, loaded or used."""


class MissingExtra(EngineError):
    """Raised when an optional dependency is not installed; names the extra.

    Args:
        what: what needs it, as the user knows it ("the engine minilm").
        extra: the extra to install.
        module: the module that could not be imported.
    """

    def __init__(self, what: str, *, extra: str, module: str) -> None:
        super().__init__(
            f"{what} needs the Python module {module!r}, which is not installed. "
            f"Install it with: pip install 'holdshort[{extra}]'"
        )
        self.extra = extra


class UnknownModel(EngineError):
    """Raised when no model of that name can be pulled or served; names the nearest right one."""


class ModelUnavailable(EngineError):
    """Raised when a model's weights can't be had, or nobody serves it; the same call may work later."""


class Interrupted(EngineError):
    """Raised by an engine whose running micro-batch was stopped by `interrupt()`."""
