"""A message without its body, as text: headers and properties in JSON."""

from __future__ import annotations

import json
from typing import Any

from kombu.utils.json import JSONEncoder, object_hook

from .database import Delivery

_KEYS = ("content-type", "content-encoding", "headers", "properties")
_encode = JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
_decode = json.JSONDecoder().decode
_decode_types = json.JSONDecoder(object_hook=object_hook).decode


def encode(message: dict[str, Any]) -> str:
    """The envelope of a kombu message."""
    return _encode({key: message.get(key) for key in _KEYS})


def decode(delivery: Delivery, tag: str) -> dict[str, Any]:
    """The kombu message of a delivery.

    A message that was given out before says so in `delivery_info`, where Celery looks, and in its headers.
    """
    text = delivery.envelope
    # kombu's encoder writes dates, UUIDs and the like as objects with this key; looking at each object
    # for it costs time.
    message: dict[str, Any] = (_decode_types if '"__type__"' in text else _decode)(text)
    message["body"] = delivery.body
    properties = message["properties"]
    properties["delivery_tag"] = tag
    properties["delivery_info"]["redelivered"] = delivery.redelivered
    if delivery.redelivered:
        message["headers"]["redelivered"] = True
    return message
