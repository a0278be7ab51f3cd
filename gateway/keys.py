"""Who may ask: bearer tokens, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from pydantic import SecretStr

from .refusal import Refusal

_BEARER = b"bearer "


class ApiKeys:
    """The keys that are accepted; without any, everybody may ask.

    Digests are compared, all of them each time, so that how long it takes tells nothing of a key.
    """

    def __init__(self, keys: Iterable[SecretStr]) -> None:
        self._digests = [_digest(key.get_secret_value().encode()) for key in keys]

    @property
    def are_asked_for(self) -> bool:
        """Whether a request needs one."""
        return bool(self._digests)

    def check(self, authorization: bytes) -> None:
        """Raise Refusal (401) unless the header carries a known key."""
        if not self._digests:
            return
        token = authorization[len(_BEARER) :] if authorization[: len(_BEARER)].lower() == _BEARER else b""
        given = _digest(token.strip())
        if not sum(hmac.compare_digest(given, known) for known in self._digests):
            raise Refusal(
                401,
                "invalid_api_key",
                "This gateway needs an API key that it knows, as the header Authorization: Bearer …; "
                + ("the one given is none of them." if token else "none was given."),
                ((b"www-authenticate", b"Bearer"),),
            )


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
