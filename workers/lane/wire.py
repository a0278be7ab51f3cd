"""How a source's word travels between hosts: one small JSON text, versioned. Pure.

Monotonic clocks mean nothing on another host, so only durations travel. Each source is named by the host it is on, its
pool, and its slot: the name of its map there, which one living process owns at a time. `opened` says when the source
took the slot, and is compared only with `opened` of the same host, to tell a successor's words from late ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from .reading import Figures
from .record import NAME, State, Word
from .verdict import NS

VERSION = 1
MOST_BYTES = 64 * 1024
"""A longer text is dropped unread."""
MOST_WORDS = 16
"""In one text; more go in several."""
_REASON_CHARS = 512
_LONG_S = 1e9

Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
Hex = Annotated[str, Field(pattern="^[0-9a-f]{8,64}$")]
Seconds = Annotated[float, Field(ge=0, le=_LONG_S)]


class _Part(BaseModel):
    # What a later version adds is overlooked; what it changes gets another version number.
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


class SaidFigures(_Part):
    """`Figures`."""

    in_flight: Annotated[int, Field(ge=0, le=2**31)] = 0
    first_byte_p50_s: Seconds | None = None
    first_byte_p95_s: Seconds | None = None
    gap_p50_s: Seconds | None = None
    gap_p95_s: Seconds | None = None


class SaidWord(_Part):
    """A source's word.

    Attributes:
        slot: the name of its map on its host.
        opened: see above.
        since_ago_s: for how long it has been so.
        ends_in_s: a hold ends by itself in so many seconds; it has ended if they are negative; None: it does not.
    """

    pool: Name
    slot: Annotated[str, Field(min_length=1, max_length=200)]
    opened: Annotated[int, Field(ge=0, lt=2**63)]
    source: Name
    device: Name | Literal[""] = ""
    state: State
    headroom: Annotated[float, Field(ge=0, le=1)]
    reason: Annotated[str, Field(max_length=_REASON_CHARS)]
    since_ago_s: Seconds
    ends_in_s: Annotated[float, Field(ge=-_LONG_S, le=_LONG_S)] | None = None
    figures: SaidFigures = SaidFigures()

    def word(self, now_ns: int) -> Word:
        """The word with times of this host's clock; it was heard at `now_ns`."""
        until = None if self.ends_in_s is None else now_ns + round(self.ends_in_s * NS)
        figures = Figures(**dict(self.figures))
        since = now_ns - round(self.since_ago_s * NS)
        return Word(self.state, self.headroom, self.reason, now_ns, since, until, figures)


class Words(_Part):
    """What the sources of one process say.

    Attributes:
        store: a digest of the store; others' words are none of ours.
        host, host_name: `Host.id` and `Host.name`.
        seq: greater than that of any earlier text of this process.
        beat_s: how often this process speaks. Silent for ten times that, it is lost.
    """

    v: Literal[1] = VERSION
    kind: Literal["words"] = "words"
    store: Hex
    host: Hex
    host_name: Name
    pid: Annotated[int, Field(ge=0)]
    seq: Annotated[int, Field(ge=0, lt=2**63)]
    beat_s: Annotated[float, Field(ge=0.01, le=10.0)]
    words: Annotated[list[SaidWord], Field(max_length=MOST_WORDS)]


class Echo(_Part):
    """What a relay says to itself, to know that it hears."""

    v: Literal[1] = VERSION
    kind: Literal["echo"] = "echo"
    store: Hex
    relay: Hex


class Dismissal(_Part):
    """An operator dismisses a source that fell silent."""

    v: Literal[1] = VERSION
    kind: Literal["dismissal"] = "dismissal"
    store: Hex
    pool: Name
    source: Annotated[str, Field(min_length=1, max_length=200)]


Text = Words | Echo | Dismissal
_TEXT: TypeAdapter[Text] = TypeAdapter(Annotated[Text, Field(discriminator="kind")])


def decode(body: str | bytes) -> Text:
    """What a text says. Raises ValueError, with the reason in one line, for anything that is not whole and sound."""
    if len(body) > MOST_BYTES:
        raise ValueError(f"it has {len(body)} bytes, and {MOST_BYTES} are allowed")
    try:
        return _TEXT.validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where + ': ' if where else ''}{first['msg']}") from error


def encode(text: Text) -> str:
    """The text of a value."""
    return text.model_dump_json()


def say(pool: str, slot: str, opened: int, source: str, device: str, word: Word, *, now_ns: int) -> SaidWord:
    """A source's word with durations in place of times."""
    return SaidWord(
        pool=pool,
        slot=slot,
        opened=opened,
        source=source,
        device=device,
        state=word.state,
        headroom=word.headroom,
        # A lone surrogate is no text on the wire.
        reason=word.reason[:_REASON_CHARS].encode(errors="replace").decode(),
        since_ago_s=max(0.0, (now_ns - word.since_ns) / NS),
        ends_in_s=None if word.until_ns is None else (word.until_ns - now_ns) / NS,
        figures=_figures(word.figures),
    )


def in_texts(words: Sequence[SaidWord]) -> Iterator[Sequence[SaidWord]]:
    """The words in as few texts as they fit in."""
    for start in range(0, len(words), MOST_WORDS):
        yield words[start : start + MOST_WORDS]


def _figures(figures: Figures) -> SaidFigures:
    first_50, first_95, gap_50, gap_95 = _known(
        (figures.first_byte_p50_s, figures.first_byte_p95_s, figures.gap_p50_s, figures.gap_p95_s)
    )
    return SaidFigures(
        in_flight=max(0, figures.in_flight),
        first_byte_p50_s=first_50,
        first_byte_p95_s=first_95,
        gap_p50_s=gap_50,
        gap_p95_s=gap_95,
    )


def _known(seconds: Iterable[float | None]) -> Iterator[float | None]:
    for value in seconds:
        yield value if value is not None and math.isfinite(value) and value >= 0 else None
