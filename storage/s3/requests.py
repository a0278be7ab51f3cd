"""Requests to S3, tried again as long as that may help."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any, NoReturn, TypeVar

from ..connections import EVENLY, Body, Connections, Sending
from ..errors import StoreUnavailable
from ..trying import PASSING, TOO_MUCH, Again, Doing, patiently
from .signing import Signer, Signers

_R = TypeVar("_R")
_PASSING_CODES = frozenset(("RequestTimeout", "BadDigest", "IncompleteBody", "OperationAborted"))
_SAID_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that says no.

    Attributes:
        code: S3's name for the reason; "" if it gave none.
    """

    status: int
    code: str

    def __str__(self) -> str:
        return f"status {self.status}" + (f" ({self.code})" if self.code else "")


def refusal(answer: HTTPResponse) -> Refusal:
    """What an answer other than 2xx says; reads its body."""
    return Refusal(answer.status, code_in(answer.read(_SAID_BYTES)))


def code_in(body: bytes) -> str:
    """S3's name for the reason, from the body of an answer; "" if there is none."""
    said = re.search(r"<Error>.*?<Code>([^<]{1,100})</Code>", body.decode(errors="replace"), re.DOTALL)
    return said[1] if said else ""


class S3Requests:
    """Requests to the buckets of one s3fs file system. Thread-safe.

    Args:
        on_refused: called when the store said that it is too much (503, 429).
    """

    def __init__(self, fs: Any, on_refused: Callable[[], None]) -> None:
        self._on_refused = on_refused
        self._lock = threading.Lock()
        self._signers = Signers(fs)
        self._pools: dict[tuple[str, str], Connections] = {}

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes | Body = b"",
        sending: Sending = EVENLY,
    ) -> AbstractContextManager[HTTPResponse]:
        """The answer to any request for an object; see Connections.ask."""
        bucket, _, key = path.partition("/")
        signer = self._signers.of(bucket)
        target = signer.target(method, key, query, headers)
        return self._pool(signer).ask(method, target, headers or {}, body, sending)

    def patiently(self, path: str, doing: Doing, once: Callable[[], _R]) -> _R:
        """What `once` returns, tried again while it raises Broken or Again. Raises StoreUnavailable after six tries."""
        return patiently(f"s3://{path}", doing, once)

    def may_pass(self, path: str, what: Refusal) -> bool:
        """Whether the same may well succeed the next time; then by other credentials, if these may have run out."""
        if what.status in PASSING or what.code in _PASSING_CODES:
            if what.status in TOO_MUCH:
                self._on_refused()
            return True
        return what.status in (401, 403) and self._signers.forget(path.partition("/")[0])

    def refuse(self, path: str, doing: Doing, what: Refusal) -> NoReturn:
        """Raise what a refusal means that means nothing special.

        Raises:
            Again: it may pass.
            PermissionError: credentials, or what they allow.
            StoreUnavailable: everything else.
        """
        if self.may_pass(path, what):
            raise Again(str(what))
        if what.status in (401, 403):
            raise PermissionError(
                f"s3://{path} may not be {doing}: {what}. Check the credentials, and what they allow."
            )
        raise StoreUnavailable(f"s3://{path} can't be {doing}: {what}")

    def close(self) -> None:
        """Close connections that nobody uses, and the others as soon as they are not used any more."""
        with self._lock:
            pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            pool.close()

    # -- inside ------------------------------------------------------------------------------------------

    def _pool(self, signer: Signer) -> Connections:
        with self._lock:
            pool = self._pools.get(signer.origin)
            if pool is None:
                authorities = os.environ.get("AWS_CA_BUNDLE")  # as botocore does
                pool = self._pools[signer.origin] = Connections(
                    signer.origin, authorities=authorities, named_by="AWS_CA_BUNDLE"
                )
        return pool
