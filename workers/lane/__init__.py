"""The lane: whether live traffic leaves room for batch work. Sources publish, workers read, the strictest word wins.

from holdshort.workers import lane

with lane.live("chat"):      # in your own server, around each request; `async with` too
    answer(request)
"""

from .opening import live
from .reading import CLEAR, Figures, Reading

__all__ = ["CLEAR", "Figures", "Reading", "live"]
