"""The housekeeping of a store: publish, promote, expire, settle, deliver, tidy."""

from .controller import Controller

__all__ = ["Controller"]
