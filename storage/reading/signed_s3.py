"""S3 by signed URLs: s3fs finds credentials, region and endpoint, and botocore signs."""

from __future__ import annotations

import os
import re
import threading
import time
from collections import OrderedDict
from http.client import HTTPMessage
from typing import Any
from urllib.parse import urlencode

from ..s3 import signing
from .http_origin import Address, NotByHttp
from .origin import Version

_KEPT_URLS = 8192
_CODE = re.compile(r"<Code>([^<]{1,100})</Code>")


class SignedS3:
    """The server of one s3fs file system."""

    scheme = "s3"
    authorities_by = "AWS_CA_BUNDLE"

    def __init__(self, fs: Any) -> None:
        self._fs = fs
        self._lock = threading.Lock()
        self._signers = signing.Signers(fs)
        self._kept: OrderedDict[tuple[str, str], tuple[float, Address]] = OrderedDict()

    @staticmethod
    def suits(fs: Any) -> bool:
        """Whether all that was configured for s3fs holds for signed URLs too."""
        return signing.suits(fs)

    def address(self, path: str, version: Version | None) -> Address:
        if not signing.can_sign(self._fs, path):
            raise NotByHttp(path)
        if version is None:
            return self._signed(path)
        if version.kept:
            return self._signed(path, version.kept)
        found = self._signed(path)
        return Address(found.server, found.target, {"If-Match": version.tag})

    def folder_address(self, path: str) -> Address:
        bucket, _, key = path.partition("/")
        query = urlencode({"list-type": "2", "max-keys": "1", "prefix": key.rstrip("/") + "/"})
        return self._address(bucket, "", query)

    def holds_any(self, answer: str) -> bool:
        return "<Contents>" in answer

    def version(self, size: int, headers: HTTPMessage) -> Version:
        kept = headers.get("x-amz-version-id", "")
        return Version(size, headers.get("ETag", ""), "" if kept == "null" else kept)

    def is_of(self, version: Version, headers: HTTPMessage) -> bool:
        return headers.get("ETag", "") == version.tag

    def reason(self, answer: str) -> str:
        said = _CODE.search(answer)
        return "" if said is None else said[1]

    def lacks_bucket(self, reason: str) -> bool:
        return reason == "NoSuchBucket"

    def renew(self, path: str, status: int) -> bool:
        """Whether the credentials may have run out, so that newer ones are worth a try."""
        with self._lock:
            self._kept.clear()
        return self._signers.forget(path.partition("/")[0])

    def who(self, path: str) -> str:
        if self._fs.anon:
            return "It was asked without credentials (anon=True)."
        return "Check the credentials, and what they allow."

    def authorities(self) -> str | None:
        return os.environ.get(self.authorities_by)  # as botocore does

    # -- inside ------------------------------------------------------------------------------------------

    def _signed(self, path: str, version_id: str = "") -> Address:
        now, which = time.monotonic(), (path, version_id)
        with self._lock:
            kept = self._kept.get(which)
            if kept is not None and now < kept[0]:
                return kept[1]
        bucket, _, key = path.partition("/")
        found = self._address(bucket, key, urlencode({"versionId": version_id}) if version_id else "")
        with self._lock:
            self._kept[which] = (now + signing.RESIGN_S, found)
            while len(self._kept) > _KEPT_URLS:
                self._kept.popitem(last=False)
        return found

    def _address(self, bucket: str, key: str, query: str) -> Address:
        signer = self._signers.of(bucket)
        return Address(signer.origin, signer.target("GET", key, query), {})
