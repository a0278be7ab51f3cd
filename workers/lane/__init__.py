"""The lane: whether live traffic leaves room for batch work."""

from .reading import CLEAR, Reading

__all__ = ["CLEAR", "Reading"]
