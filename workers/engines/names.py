"""Suggestions for names that were not found."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """Like "; did you mean 'minilm'?", or "." if nothing known is like it. Ends the sentence in either case."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "."
