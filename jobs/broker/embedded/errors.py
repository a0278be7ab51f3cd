"""What can go wrong.

EmbeddedBrokerError
├── BrokerFileError    the file can't be used as it is
├── BrokerBusyError    other processes held the write lock for too long
├── DiskFullError      nothing can be written until there is space
└── SessionLostError   others took this consumer for dead
"""

from __future__ import annotations


class EmbeddedBrokerError(Exception):
    """The root. kombu counts all of these as connection errors: it reconnects and tries again."""


class BrokerFileError(EmbeddedBrokerError):
    """The file, or where it lies, is not fit: no such folder, not writable, a network file system,
    a newer schema, not a database."""


class BrokerBusyError(EmbeddedBrokerError):
    """The write lock was not to be had within `busy_timeout_s`."""


class DiskFullError(EmbeddedBrokerError):
    """There is no space left. What was accepted before is safe; this operation did not happen."""


class SessionLostError(EmbeddedBrokerError):
    """This consumer did not renew its lease in time, and what it held was given to others.

    It happens to a process that was stopped for longer than a lease. A new connection cures it.
    """
