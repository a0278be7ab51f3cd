"""Server-sent events out of the bytes of a stream, however those are cut. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `kind` is "message" where the stream does not name it."""

    data: str
    kind: str = "message"


class EventReader:
    """Feed it chunks; it gives the events that they complete. One that the stream's end cuts off never comes.

    Line ends may be LF, CRLF or CR. Comments, ids and retry times are left out.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""
        self._is_begun = False
        self._may_skip_lf = False
        self._kind = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that this chunk completes."""
        for line in self._lines(self._decoder.decode(chunk)):
            if line:
                self._take(line)
                continue
            if self._data:
                yield Event("\n".join(self._data), self._kind or "message")
            self._kind, self._data = "", []

    def _lines(self, text: str) -> list[str]:
        """The lines that a text completes."""
        if not text:
            return []
        if not self._is_begun:
            self._is_begun = True
            text = text.removeprefix("\ufeff")
        if self._may_skip_lf:  # the CR before it, at the end of the last chunk, has ended the line already
            text = text.removeprefix("\n")
        self._may_skip_lf = text.endswith("\r")
        *lines, self._text = (self._text + text.replace("\r\n", "\n").replace("\r", "\n")).split("\n")
        return lines

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._kind = value
