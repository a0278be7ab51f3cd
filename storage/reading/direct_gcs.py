"""Google Cloud Storage by its JSON API, with the token that gcsfs holds and renews.

No gRPC is used, so a network that blocks it does no harm here. Only zonal buckets, which are made for gRPC, are left to
gcsfs.
"""

from __future__ import annotations

import json
import os
import threading
import time
from http.client import HTTPMessage
from typing import Any, cast
from urllib.parse import quote, urlencode, urlsplit

from .connections import Connections
from .http_origin import Address, Again, NotByHttp
from .origin import Version

_NEW_S = 30.0
_GENERATION = "X-Goog-Generation"


class DirectGcs:
    """The server of one gcsfs file system."""

    scheme = "gs"
    authorities_by = "SSL_CERT_FILE"

    def __init__(self, fs: Any) -> None:
        self._fs = fs
        self._lock = threading.Lock()
        self._renewed_at = -_NEW_S
        self._tells_generations = True
        self._zonal: dict[str, bool] = {}
        self._own: Connections | None = None
        base = urlsplit(cast("str", fs.base))  # https://storage.googleapis.com/storage/v1/, or an emulator's
        self._server = (base.scheme, base.netloc)
        self._path = base.path.rstrip("/")

    @staticmethod
    def suits(fs: Any) -> bool:
        """Whether all that was configured for gcsfs holds for plain requests too."""
        return not (fs.session_kwargs or fs.asynchronous or getattr(fs, "_use_client_cert", False))

    def address(self, path: str, version: Version | None) -> Address:
        bucket, key, generation = self._fs.split_path(path)
        if generation or not self._tells_generations or self._is_zonal(bucket):
            raise NotByHttp(path)
        query = {"alt": "media"}
        if version is not None and version.kept:
            query["generation"] = version.kept
        elif version is not None:
            # Refused as soon as another generation is the live one: an old one may be there still.
            query["ifGenerationMatch"] = version.tag
        # As it is stored: without this an object that is stored compressed comes unpacked, in no known size.
        target = f"/download{self._path}/b/{_quoted(bucket)}/o/{_quoted(key)}"
        return self._address(target, query, {"Accept-Encoding": "gzip"})

    def folder_address(self, path: str) -> Address:
        bucket, key, _ = self._fs.split_path(path)
        query = {"prefix": key.rstrip("/") + "/", "maxResults": "1", "fields": "items(name)"}
        return self._address(f"{self._path}/b/{_quoted(bucket)}/o", query, {})

    def holds_any(self, answer: str) -> bool:
        return bool(_parsed(answer).get("items"))

    def version(self, size: int, headers: HTTPMessage) -> Version:
        generation = headers.get(_GENERATION, "")
        if not generation:  # an emulator that leaves it out
            self._tells_generations = False
            raise NotByHttp(_GENERATION)
        return Version(size, generation, generation)

    def is_of(self, version: Version, headers: HTTPMessage) -> bool:
        return headers.get(_GENERATION, "") == version.tag

    def reason(self, answer: str) -> str:
        said: Any = _parsed(answer).get("error")
        if isinstance(said, dict):
            said = cast("dict[str, Any]", said).get("message")
        return str(said or answer).strip()[:200].rstrip(".")

    def lacks_bucket(self, reason: str) -> bool:
        return "bucket does not exist" in reason

    def renew(self, path: str, status: int) -> bool:
        """Whether there is a newer token, since the last may have been revoked."""
        now = time.monotonic()
        with self._lock:
            if status != 401 or self._fs.credentials.credentials is None or now - self._renewed_at < _NEW_S:
                return False
            self._renewed_at = now
        self._with_token({}, newer=True)
        return True

    def who(self, path: str) -> str:
        if self._fs.credentials.credentials is None:
            return (
                "No credentials were found, so it was asked without any. Set GOOGLE_APPLICATION_CREDENTIALS, log in "
                "with `gcloud auth application-default login`, or pass token as an option of gs."
            )
        return "Check the credentials, and what they allow."

    def authorities(self) -> str | None:
        return os.environ.get(self.authorities_by)

    # -- inside ------------------------------------------------------------------------------------------

    def _address(self, target: str, query: dict[str, str], headers: dict[str, str]) -> Address:
        found: dict[str, str] = self._fs._get_params(query)
        return Address(self._server, f"{target}?{urlencode(found)}", self._with_token(headers))

    def _with_token(self, headers: dict[str, str], *, newer: bool = False) -> dict[str, str]:
        """Headers with a token that is good for some minutes more; gcsfs renews it if need be."""
        from gcsfs.retry import HttpError, NonRetryableError
        from google.auth.exceptions import GoogleAuthError, TransportError

        found = dict(headers)
        try:
            if newer:
                self._fs.credentials.maybe_refresh(float("inf"))
            self._fs.credentials.apply(found)
        except TransportError as error:
            raise Again(f"no newer token could be had: {error}") from error
        except (GoogleAuthError, HttpError, NonRetryableError) as error:
            raise PermissionError(
                f"The credentials for gs:// can't be renewed: {error.__cause__ or error}. Log in again, or name others."
            ) from error
        return found

    def _is_zonal(self, bucket: str) -> bool:
        if not hasattr(self._fs, "_is_zonal_bucket"):  # gcsfs was told not to use gRPC
            return False
        found = self._zonal.get(bucket)
        if found is None:
            # Asked by plain HTTP: gcsfs asks by gRPC, and where that is blocked, waits for a minute each time.
            address = self._address(f"{self._path}/b/{_quoted(bucket)}/storageLayout", {}, {})
            with self._connections().get(address.target, address.headers) as answer:
                text = answer.read(65536).decode(errors="replace")
                # Who may read objects may not always ask this, and emulators don't know it: such a bucket is not zonal,
                # or reading it will say so.
                found = answer.status == 200 and _parsed(text).get("locationType") == "zone"
            self._zonal[bucket] = found
        return found

    def _connections(self) -> Connections:
        with self._lock:
            if self._own is None:
                self._own = Connections(self._server, authorities=self.authorities(), named_by=self.authorities_by)
            return self._own


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _parsed(answer: str) -> dict[str, Any]:
    """An answer in JSON; {} for any other."""
    try:
        found: Any = json.loads(answer)
    except ValueError:
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
