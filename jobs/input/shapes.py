"""The shapes a single row may have, and what is refused about one.

A row is either in the shape of an OpenAI batch line, {"custom_id", "method", "url", "body"}, or plain:
{"custom_id"?, "input", …}, where everything but custom_id becomes the body.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NoReturn, cast

import orjson

from .problems import UnusableError
from .rows import InputRow, Limits

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NO_JSON_NUMBER = re.compile(r"-?(?:NaN|Infinity|nan|inf)\b")
_EXAMPLE = '{"custom_id": "doc-1", "input": "some text"}'


def row_from_line(line: bytes, default_id: str, where: str, limits: Limits) -> InputRow:
    """The row of one line of JSON, which must carry no white space around it.

    A line that is complete already is kept byte for byte.

    Args:
        line: at most `limits.row_bytes` long.
        default_id: the custom_id of a row that names none.
        where: where it was read.
        limits: for what is longer once it is completed.

    Raises:
        UnusableError: with what is wrong.
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        _refuse_line(line, error, where)
    if type(value) is not dict:
        raise UnusableError(
            where,
            "not_an_object",
            f"holds {_kind(value)}, not an object.",
            f"Write each row like {_EXAMPLE}.",
        )
    known = cast("dict[str, Any]", value)
    check_row(known, where, limits)
    if "custom_id" in known:
        if "body" in known:
            return InputRow(known["custom_id"], line, where)
        return _encoded(known.pop("custom_id"), {"body": known}, where, limits)
    if "body" in known:
        return _encoded(default_id, known, where, limits)
    # All of the line is the body: no need to encode it again.
    whole = b'{"custom_id":%b,"body":%b}' % (orjson.dumps(default_id), line)
    return _measured(default_id, whole, where, limits)


def row_from_mapping(value: Mapping[str, Any], default_id: str, where: str, limits: Limits) -> InputRow:
    """The row of a mapping in either shape; see row_from_line."""
    known = dict(value)
    check_row(known, where, limits)
    custom_id = known.pop("custom_id", default_id)
    row = _encoded(custom_id, known if "body" in known else {"body": known}, where, limits)
    # orjson writes NaN and infinities as null.
    if b"null" in row.line and _has_no_json_number(known):
        raise UnusableError(
            where,
            "bad_json",
            "holds NaN or an infinity, which JSON has not.",
            "Use None, or leave the key out.",
        )
    return row


def row_from_body(custom_id: str, body: dict[str, Any], where: str, limits: Limits) -> InputRow:
    """The row of a body that a table or a text file makes."""
    check_custom_id(custom_id, where, limits)
    return _encoded(custom_id, {"body": body}, where, limits)


def check_row(row: dict[str, Any], where: str, limits: Limits) -> None:
    """Raise UnusableError for what is wrong with a row's keys; return when nothing is."""
    if "body" in row:
        if not isinstance(row["body"], Mapping):
            raise UnusableError(
                where,
                "bad_body",
                f'"body" is {_kind(row["body"])}, not an object.',
                'Write it like {"custom_id": "doc-1", "body": {"input": "some text"}}.',
            )
        if "input" in row:
            raise UnusableError(
                where,
                "ambiguous_row",
                'has both "input" and "body".',
                'Put "input" inside "body", or leave one out.',
            )
        if row.get("method", "POST") != "POST":
            raise UnusableError(
                where, "bad_method", f"method is {_shown(row['method'])}.", 'Write "POST", or leave it out.'
            )
        if not isinstance(row.get("url", ""), str):
            raise UnusableError(
                where,
                "bad_url",
                f"url is {_kind(row['url'])}, not a string.",
                'Write it like "/v1/embeddings", or leave it out.',
            )
    elif row.get("input") is None:
        _refuse_without_input(row, where)
    if "custom_id" in row:
        check_custom_id(row["custom_id"], where, limits)


def check_custom_id(custom_id: Any, where: str, limits: Limits) -> None:
    """Raise UnusableError for a custom_id that results can't be matched by."""
    if not isinstance(custom_id, str):
        cure = "Put it in quotes." if isinstance(custom_id, int | float) else "Write a string, or leave it out."
        message = f"custom_id is {_kind(custom_id)}, not a string."
    elif not custom_id:
        message, cure = "custom_id is empty.", "Give the row a name of its own, or leave custom_id out."
    elif len(custom_id) > limits.custom_id_chars:
        message = f"custom_id has {len(custom_id):,} characters; {limits.custom_id_chars:,} are allowed."
        cure = "Shorten it; what it stood for can go into the body's metadata."
    elif not custom_id.isprintable() and _UNPRINTABLE.search(custom_id):
        message = f"custom_id {_shown(custom_id)} holds a control character."
        cure = "Take it out: an id appears in file names, logs and tables."
    else:
        return
    raise UnusableError(where, "bad_custom_id", message, cure)


def refuse_length(size: int, where: str, limits: Limits) -> NoReturn:
    """Raise UnusableError for a row of so many bytes."""
    raise UnusableError(
        where,
        "row_too_long",
        f"is {size:,} bytes long; a row may have {limits.row_bytes:,}.",
        "Split it into several rows.",
    )


def refuse_encoding(data: bytes, error: UnicodeDecodeError, where: str) -> NoReturn:
    """Raise UnusableError for a line that is not UTF-8."""
    raise UnusableError(
        where,
        "bad_encoding",
        f"byte 0x{data[error.start]:02X} at offset {error.start:,} of the line is not UTF-8.",
        "Save the file as UTF-8, for example by: iconv -f WINDOWS-1252 -t UTF-8 <old >new.",
    )


def _encoded(custom_id: str, row: Mapping[str, Any], where: str, limits: Limits) -> InputRow:
    value: dict[str, Any] = {"custom_id": custom_id}
    value |= {key: row[key] for key in ("method", "url", "body") if key in row}
    try:
        line = orjson.dumps(value, default=_plain)
    except TypeError as error:
        raise UnusableError(
            where,
            "not_json",
            f"can't be written as JSON: {error}.",
            "Use text, numbers, booleans, None, lists and dicts with text as keys.",
        ) from error
    return _measured(custom_id, line, where, limits)


def _measured(custom_id: str, line: bytes, where: str, limits: Limits) -> InputRow:
    if len(line) > limits.row_bytes:
        refuse_length(len(line), where, limits)
    return InputRow(custom_id, line, where)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, Any]", value))
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError


def _has_no_json_number(value: Any) -> bool:
    left: list[Any] = [value]
    while left:
        item = left.pop()
        if isinstance(item, Mapping):
            left.extend(cast("Mapping[str, Any]", item).values())
        elif isinstance(item, list | tuple):
            left.extend(cast("list[Any]", item))
        elif isinstance(item, float) and not float("-inf") < item < float("inf"):
            return True
    return False


def _refuse_line(line: bytes, error: orjson.JSONDecodeError, where: str) -> NoReturn:
    try:
        text = line.decode()
    except UnicodeDecodeError as wrong:
        refuse_encoding(line, wrong, where)
    # At "-Infinity" the parser stops behind the sign.
    found = _NO_JSON_NUMBER.match(text, error.pos - text.startswith("-", max(error.pos - 1, 0)))
    if found:
        raise UnusableError(
            where,
            "bad_json",
            f"{found[0]}, at column {found.start() + 1:,}, is not JSON.",
            "Write null, or leave the key out.",
        ) from error
    raise UnusableError(
        where,
        "bad_json",
        f"is not JSON: {error.msg}, at column {error.colno:,}.",
        f"Each line must hold one whole JSON object, like {_EXAMPLE}.",
    ) from error


def _refuse_without_input(row: dict[str, Any], where: str) -> NoReturn:
    cure = f"Write each row like {_EXAMPLE}."
    if "input" in row:
        message = '"input" is null.'
    else:
        message = 'has neither "input" nor "body".'
        for key in ("messages", "prompt"):
            if key in row:
                cure = f'Put what the engine should get into "body": {{"custom_id": …, "body": {{"{key}": …}}}}.'
    raise UnusableError(where, "missing_input", message, cure)


def _shown(value: Any) -> str:
    text = orjson.dumps(value, default=repr).decode() if not isinstance(value, float) else repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list() | tuple():
            return "an array"
        case Mapping():
            return "an object"
        case _:
            return f"a Python {type(value).__name__}"
