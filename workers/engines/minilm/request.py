"""The body of a row for the embedding engine: OpenAI's embeddings request, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from ....jobs.rows import RowError
from ..names import nearest

DIMENSIONS = 384
_KNOWN = ("input", "encoding_format", "dimensions", "truncate", "model", "user", "metadata")
_ENDPOINT = "/v1/embeddings"


@dataclass(frozen=True, slots=True)
class Request:
    """What a row asks for.

    Attributes:
        texts: at least one, none empty.
        base64: whether embeddings are wanted as base64 of little-endian float32 instead of numbers.
        truncate: whether a text that is too long is cut to its first window instead of being refused.
    """

    texts: list[str]
    base64: bool
    truncate: bool


def parse(url: str, body: Mapping[str, Any]) -> Request | RowError:
    """The request, or what is wrong with it. Keys that are null count as left out."""
    if url not in ("", _ENDPOINT):
        return _bad(f"This engine answers {_ENDPOINT}, not {url}. Submit the row to a pool that does.")
    for key in body:
        if key not in _KNOWN:
            return RowError(
                "unknown_parameter",
                f"{key!r} is no parameter of an embedding{nearest(key, _KNOWN)} Known: {', '.join(_KNOWN)}.",
            )
    texts = _texts(body.get("input"))
    if isinstance(texts, RowError):
        return texts
    encoding = body.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        return _bad(f'"encoding_format" is {encoding!r}; it has to be "float" or "base64".')
    dimensions = body.get("dimensions")
    if dimensions is not None and (type(dimensions) is not int or dimensions != DIMENSIONS):
        return _bad(f'"dimensions" is {dimensions!r}; this model has {DIMENSIONS}. Leave the key out.')
    truncate = body.get("truncate")
    if truncate is not None and not isinstance(truncate, bool):
        return _bad(f'"truncate" is {truncate!r}; it has to be true or false.')
    return Request(texts, encoding == "base64", bool(truncate))


def text_name(texts: list[str], index: int) -> str:
    """How messages call a text: "input", or "input[3]" where there are several."""
    return "input" if len(texts) == 1 else f"input[{index}]"


def _texts(given: Any) -> list[str] | RowError:
    if given is None:
        return _bad('"input" is missing: the text to embed, or a list of texts.')
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, list):
        return _bad(f'"input" is of type {type(given).__name__}; it has to be a text or a list of texts.')
    texts = cast("list[Any]", given)
    if not texts:
        return _bad('"input" is an empty list; it has to hold at least one text.')
    for index, text in enumerate(texts):
        name = text_name(texts, index)
        if not isinstance(text, str):
            hint = " Token numbers are not accepted: they are of another model." if isinstance(text, int | list) else ""
            return _bad(f'"{name}" is of type {type(cast("object", text)).__name__}, not a text.{hint}')
        if not text:
            return _bad(f'"{name}" is an empty text.')
        if not _is_unicode(text):
            return _bad(f'"{name}" holds half of a surrogate pair, which is no character.')
    return texts


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bad(message: str) -> RowError:
    return RowError("bad_request", message)
