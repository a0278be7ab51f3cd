"""The requests that make an object on S3, each of which may be repeated."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import unescape
from typing import Any
from urllib.parse import quote

from ..checksums import crc32c
from ..connections import EVENLY, Body, Sending, evenly
from ..errors import HoldshortError, StoreUnavailable
from ..trying import Again
from .requests import Refusal, S3Requests, code_in, refusal

log = logging.getLogger(__name__)

_HEADERS = {
    "ACL": "x-amz-acl", "CacheControl": "Cache-Control", "ContentDisposition": "Content-Disposition",
    "ContentEncoding": "Content-Encoding", "ContentLanguage": "Content-Language", "ContentType": "Content-Type",
    "ServerSideEncryption": "x-amz-server-side-encryption", "StorageClass": "x-amz-storage-class",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id", "Tagging": "x-amz-tagging",
    "SSEKMSEncryptionContext": "x-amz-server-side-encryption-context",
    "BucketKeyEnabled": "x-amz-server-side-encryption-bucket-key-enabled",
}  # fmt: skip
_MARK = "x-amz-meta-holdshort-writer"
_CRC, _ALGORITHM = "x-amz-checksum-crc32c", "x-amz-checksum-algorithm"
_MD5 = re.compile(r"[0-9a-f]{32}")


def headers_of(settings: Mapping[str, Any]) -> dict[str, str] | None:
    """What s3fs's settings for an object are as headers; None if there is one that is not known here."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if name not in _HEADERS or not isinstance(value, str | bool):
            return None
        found[_HEADERS[name]] = value if isinstance(value, str) else str(value).lower()
    return found


def crc32c_of(body: bytes | Body) -> str:
    """CRC32C of bytes as S3 writes it: in base64."""
    found = 0
    for piece in _pieces(body):
        found = crc32c(piece, found)
    return base64.b64encode(found.to_bytes(4, "big")).decode()


def _md5_of(body: bytes | Body) -> Any:
    found = hashlib.md5(usedforsecurity=False)
    for piece in _pieces(body):
        found.update(piece)
    return found


def _pieces(body: bytes | Body) -> Iterator[bytes | memoryview]:
    at = 0
    while at < len(body):
        piece = body[at:]
        at += len(piece)
        yield piece


@dataclass(frozen=True, slots=True)
class Written:
    """A part that the store has.

    Attributes:
        crc32c: as the store checked it, in base64; "" if it checked another sum.
    """

    number: int
    tag: str
    crc32c: str


class Objects:
    """Writes objects by requests that carry a sum of their bytes, which the store checks. Thread-safe.

    CRC32C costs a tenth of what MD5 does. A store that does not know it (it would say so in its answer) gets MD5.
    """

    def __init__(self, requests: S3Requests) -> None:
        self.requests = requests
        self.close = requests.close
        self._by_md5 = False

    @property
    def is_by_crc32c(self) -> bool:
        """Whether the store is taken to check CRC32C."""
        return not self._by_md5

    def exists(self, path: str) -> bool:
        """Whether there is an object of that name."""
        return self.look(path) is not None

    def look(self, path: str) -> Mapping[str, str] | None:
        """An object's headers, by names in lower case; None: there is none."""

        def once() -> Mapping[str, str] | None:
            with self.requests.ask("HEAD", path) as answer:
                answer.read()
                if answer.status == 404:
                    return None
                if answer.status != 200:
                    self.requests.refuse(path, "read", Refusal(answer.status, ""))
                return {name.lower(): value for name, value in answer.getheaders()}

        return self.requests.patiently(path, "read", once)

    def put(
        self,
        path: str,
        body: bytes | Body,
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        sending: Callable[[], None] = lambda: None,
        refused: Callable[[Refusal], Written | None] = lambda _: None,
    ) -> Written:
        """Send bytes, as an object or as a part of one.

        Args:
            refused: told of an answer that says no; may know better.
        """

        def once() -> Written:
            found = self.try_put(path, body, query=query, headers=headers, sending=evenly(sending))
            if isinstance(found, Written):
                return found
            known = refused(found)
            if known is None:
                self.requests.refuse(path, "written", found)
            return known

        return self.requests.patiently(path, "written", once)

    def try_put(
        self,
        path: str,
        body: bytes | Body,
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        sending: Sending = EVENLY,
    ) -> Written | Refusal:
        """The same by one request, and what came of it. Raises Broken, and Again if it is worth another try at once."""
        by_md5 = self._by_md5
        md5 = _md5_of(body).digest() if by_md5 else b""
        crc = "" if by_md5 else crc32c_of(body)
        summed = {"Content-MD5": base64.b64encode(md5).decode()} if by_md5 else {_CRC: crc}
        with self.requests.ask(
            "PUT", path, query=query, headers={**(headers or {}), **summed}, body=body, sending=sending
        ) as answer:
            if answer.status == 200:
                answer.read()
                tag = answer.headers.get("ETag", "")
                if not tag:
                    raise Again("it answered without an ETag")
                is_checked = by_md5 or answer.headers.get(_CRC) == crc or self._is_right(path, body, tag)
                return Written(0, tag, crc if is_checked and answer.headers.get(_CRC) else "")
            what = refusal(answer)
        self.doubt_crc32c(path, what)
        return what

    def doubt_crc32c(self, path: str, what: Refusal) -> None:
        """Raise Again if what was refused may well be the sum."""
        if what.status == 501 and not self._by_md5:
            self._by_md5 = True
            raise Again(f"{what}: it does not know CRC32C, so it gets MD5 from now on")

    def _is_right(self, path: str, body: bytes | Body, tag: str) -> bool:
        """Whether the tag is that of the bytes, for a store that does not say that it has checked their sum."""
        if not self._by_md5:
            log.info("The store of s3://%s does not check CRC32C; it gets MD5 from now on", path)
        self._by_md5 = True
        if tag.strip('"') != _md5_of(body).hexdigest():
            raise Again("it does not check CRC32C; sending the same again with its MD5")
        return True


class Upload:
    """One object: whole, or in parts. Any thread may send parts.

    Args:
        headers: of the object.
        is_new: there must be none of that name.
    """

    def __init__(self, objects: Objects, path: str, headers: Mapping[str, str], *, is_new: bool) -> None:
        self.path = path
        self._objects = objects
        self._requests = objects.requests
        self._headers = dict(headers)
        self._is_new = is_new
        self._mark = secrets.token_hex(16)
        if is_new:
            # By it an object that is there after an answer was lost is known to be this one.
            self._headers[_MARK] = self._mark
        self._lock = threading.Lock()
        self._id = ""
        self._is_by_crc32c = False
        self._is_over = False

    def put(self, body: bytes | Body) -> None:
        """All of it by one request. Raises FileExistsError."""
        condition = {"If-None-Match": "*"} if self._is_new else {}

        def refused(what: Refusal) -> Written | None:
            self._check_new(what)
            return Written(0, "", "") if what.status == 412 else None

        self._objects.put(self.path, body, headers={**self._headers, **condition}, refused=refused)
        self._is_over = True

    def part(self, number: int, body: Body, sending: Callable[[], None]) -> Written:
        """One part; parts may come in any order. The first one to come begins the upload."""
        query = f"partNumber={number}&uploadId={quote(self._begun(), safe='')}"
        found = self._objects.put(self.path, body, query=query, sending=sending)
        return Written(number, found.tag, found.crc32c)

    def complete(self, parts: Sequence[Written]) -> None:
        """Make it visible. Raises FileExistsError.

        An answer that is lost leaves open whether that has happened, so it is asked for again; then the upload may be
        gone, and the object itself tells.
        """
        with_sums = self._is_by_crc32c and all(part.crc32c for part in parts)
        listed = "".join(
            f"<Part><PartNumber>{part.number}</PartNumber><ETag>{part.tag}</ETag>"
            + (f"<ChecksumCRC32C>{part.crc32c}</ChecksumCRC32C>" if with_sums else "")
            + "</Part>"
            for part in parts
        )
        body = (
            f'<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{listed}'
            f"</CompleteMultipartUpload>"
        ).encode()
        headers = {"If-None-Match": "*"} if self._is_new else {}

        def once() -> None:
            with self._ask("POST", headers=headers, body=body) as answer:
                said = answer.read()
                status, code = answer.status, code_in(said)
            if status == 200 and b"<CompleteMultipartUploadResult" in said:
                return
            what = Refusal(status, code)
            if status == 200:  # it began to answer before it knew
                raise Again(f"it answered with {code or 'half an answer'}")
            self._check_new(what)
            if status == 412:
                return
            if status == 404 and code == "NoSuchUpload":
                self._check_done(parts)
                return
            self._requests.refuse(self.path, "written", what)

        self._requests.patiently(self.path, "written", once)
        self._is_over = True

    def abort(self) -> None:
        """Leave nothing behind; what can't be removed now is logged. No part may be on its way."""
        if not self._id or self._is_over:
            return
        self._is_over = True

        def once() -> None:
            with self._ask("DELETE") as answer:
                if answer.status in (200, 204):
                    answer.read()
                    return
                what = refusal(answer)
            if what.status != 404:
                self._requests.refuse(self.path, "written", what)

        try:
            self._requests.patiently(self.path, "written", once)
        except (HoldshortError, OSError) as error:
            log.warning(
                "The parts of an object that was discarded stay in the bucket, unseen but paid for, until they are "
                "removed (a lifecycle rule AbortIncompleteMultipartUpload does that): %s", error,
            )  # fmt: skip

    # -- inside ------------------------------------------------------------------------------------------

    def _ask(self, method: str, **kwargs: Any) -> Any:
        return self._requests.ask(method, self.path, query=f"uploadId={quote(self._id, safe='')}", **kwargs)

    def _begun(self) -> str:
        """The upload's id; others wait while one begins it."""
        with self._lock:
            if not self._id:
                self._id = self._requests.patiently(self.path, "written", self._begin)
        return self._id

    def _begin(self) -> str:
        by_crc32c = self._objects.is_by_crc32c
        headers = {**self._headers, _ALGORITHM: "CRC32C"} if by_crc32c else self._headers
        with self._requests.ask("POST", self.path, query="uploads=", headers=headers) as answer:
            if answer.status != 200:
                what = refusal(answer)
                self._objects.doubt_crc32c(self.path, what)
                if what.code == "NoSuchBucket":
                    raise FileNotFoundError(f"s3://{self.path} can't be written: its bucket does not exist")
                self._requests.refuse(self.path, "written", what)
            said = answer.read().decode(errors="replace")
        found = re.search(r"<UploadId>([^<]+)</UploadId>", said)
        if found is None:
            raise Again("it answered without the id of the upload")
        self._is_by_crc32c = by_crc32c
        return unescape(found[1])

    def _check_new(self, what: Refusal) -> None:
        """After a refusal: whether it says that there is an object already, which is not this very one."""
        if what.status == 404 and what.code == "NoSuchBucket":
            raise FileNotFoundError(f"s3://{self.path} can't be written: its bucket does not exist")
        if what.status == 409:  # somebody is at the same object just now
            raise Again(str(what))
        if what.status == 412 and self._is_new:
            there = self._objects.look(self.path)
            if there is None:
                raise Again(f"{what}, though there is no such object")
            if there.get(_MARK) != self._mark:
                raise FileExistsError(f"s3://{self.path} exists")

    def _check_done(self, parts: Sequence[Written]) -> None:
        """After the upload turned out to be gone: whether that is since the object is there."""
        there = self._objects.look(self.path)
        if there is not None:
            if self._is_new and there.get(_MARK) == self._mark:
                return
            if not self._is_new and there.get("etag", "").strip('"') == _tag_of(parts):
                return
        raise StoreUnavailable(
            f"s3://{self.path} was not written, or is not there any more: its upload is gone, and what is there now is "
            f"something else. Somebody has written it meanwhile, or has removed unfinished uploads. Write it again."
        )


def _tag_of(parts: Sequence[Written]) -> str:
    """The ETag of an object made of parts; "" where the parts' are no MD5, and so tell nothing."""
    tags = [part.tag.strip('"') for part in parts]
    if not all(_MD5.fullmatch(tag) for tag in tags):
        return ""
    whole = hashlib.md5(b"".join(bytes.fromhex(tag) for tag in tags), usedforsecurity=False).hexdigest()
    return f"{whole}-{len(tags)}"
