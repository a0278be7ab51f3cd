"""Objects in parts on S3: multipart uploads, through s3fs."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, cast
from urllib.parse import quote

from ..connections import Broken
from ..errors import HoldshortError, Interrupted, StoreUnavailable, UploadGone
from ..flow import Flow, unstoppable
from ..s3 import signing
from ..s3.objects import Objects, Written, crc32c_of
from ..s3.requests import S3Requests
from ..store import check_path
from ..trying import Again
from .protocol import Unfinished
from .sending import as_it_flows

_UNKNOWN = "NotImplemented"
_UNFIT = frozenset((_UNKNOWN, "InvalidPart", "InvalidPartOrder", "EntityTooSmall"))
_LOOKS = 3


class S3Parts:
    """Objects below a prefix of one bucket.

    Args:
        fs: the s3fs file system.
        root: bucket and prefix.
        url: how messages name it.
    """

    def __init__(self, fs: Any, root: str, url: str) -> None:
        self._fs = fs
        self._bucket, _, self._prefix = root.partition("/")
        self._url = url
        self._objects: Objects | None = None
        if signing.suits(fs) and not fs.anon and signing.can_sign(fs, root):
            objects = self._objects = Objects(S3Requests(fs, on_refused=lambda: None))
            weakref.finalize(self, objects.close)

    @property
    def parts_most(self) -> int:
        return 10_000

    def begin(self, path: str) -> str:
        try:
            return cast("str", self._call("create_multipart_upload", path, ChecksumAlgorithm="CRC32C")["UploadId"])
        except OSError as error:
            if _code(error) != _UNKNOWN:
                raise
            return cast("str", self._call("create_multipart_upload", path)["UploadId"])

    def put(self, path: str, token: str, index: int, start: int, data: bytes, flow: Flow) -> str:
        flow.check()
        if self._objects is not None:
            return _note(self._send(self._objects, path, token, index + 1, data, flow))
        begin, number = time.perf_counter(), index + 1
        values = {"UploadId": token, "PartNumber": number, "Body": data, "ChecksumCRC32C": crc32c_of(data)}
        try:
            answer = self._call("upload_part", path, flow, **values)
        except FileNotFoundError as error:
            raise self._gone(path) from error
        flow.moved(len(data), time.perf_counter() - begin)
        return _note(Written(number, answer["ETag"], answer.get("ChecksumCRC32C", "")))

    def finish(self, path: str, token: str, tags: Sequence[str], size_bytes: int) -> None:
        parts = [_noted(number, tag) for number, tag in enumerate(tags, 1)]
        try:
            self._complete(path, token, parts)
        except FileNotFoundError as error:
            # Done before, perhaps by a call whose answer was lost; or dropped.
            if self._size(path) == size_bytes:
                return
            raise self._gone(path) from error
        except OSError as error:
            raise UploadGone(f"The parts of {path} in {self._url} don't fit together: {error}") from error
        if (found := self._size(path)) != size_bytes:
            raise UploadGone(f"{path} in {self._url} has {found} bytes instead of {size_bytes}.")

    def drop(self, path: str, token: str) -> None:
        try:
            self._call("abort_multipart_upload", path, UploadId=token)
        except FileNotFoundError:
            return

    def unfinished(self, folder: str) -> Iterator[Unfinished]:
        prefix = self._key(folder) + "/"
        further: dict[str, Any] = {}
        while True:
            answer = self._call("list_multipart_uploads", "", Prefix=prefix, **further)
            for entry in answer.get("Uploads") or ():
                path = cast("str", entry["Key"]).removeprefix(self._prefix).lstrip("/")
                began: datetime = entry["Initiated"]
                yield Unfinished(path, entry["UploadId"], began.timestamp())
            if not answer.get("IsTruncated"):
                return
            further = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}

    # -- inside ------------------------------------------------------------------------------------------

    def _key(self, path: str) -> str:
        return f"{self._prefix}/{check_path(path)}" if self._prefix else check_path(path)

    def _send(self, objects: Objects, path: str, token: str, number: int, data: bytes, flow: Flow) -> Written:
        """Send one part so that it can be cut off."""
        where, query = f"{self._bucket}/{self._key(path)}", f"partNumber={number}&uploadId={quote(token, safe='')}"
        try:
            said = objects.try_put(where, data, query=query, sending=as_it_flows(flow))
        except (Broken, Again) as error:
            flow.check()
            raise self._takes_none(str(error)) from error
        except HoldshortError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise StoreUnavailable(f"The store {self._url} can't be reached to write {path}: {what}") from error
        if isinstance(said, Written):
            return replace(said, number=number)
        if said.status == 404 and said.code == "NoSuchUpload":
            raise self._gone(path)
        objects.requests.may_pass(where, said)  # so that the next try has newer credentials
        raise self._takes_none(str(said))

    def _complete(self, path: str, token: str, parts: Sequence[Written]) -> None:
        """Raises FileNotFoundError, and OSError if the parts are not what is there."""
        for look in range(_LOOKS + 1):
            with_sums = all(part.crc32c for part in parts)
            listed = [
                {"PartNumber": part.number, "ETag": part.tag, **({"ChecksumCRC32C": part.crc32c} if with_sums else {})}
                for part in parts
            ]
            try:
                self._call("complete_multipart_upload", path, UploadId=token, MultipartUpload={"Parts": listed})
            except OSError as error:
                if _code(error) != "InvalidPart" or look == _LOOKS:
                    raise
                # Somebody else put a part again after us. Where the store encrypts by keys (SSE-KMS) the same bytes
                # have another ETag each time; by their sum they are known to be the same.
                there = self._there(path, token)
                parts = [there.get((part.number, part.crc32c), part) if part.crc32c else part for part in parts]
            else:
                return

    def _there(self, path: str, token: str) -> dict[tuple[int, str], Written]:
        """The parts that the store has, by their numbers and sums."""
        found: dict[tuple[int, str], Written] = {}
        further: dict[str, Any] = {}
        while True:
            answer = self._call("list_parts", path, UploadId=token, **further)
            for entry in answer.get("Parts") or ():
                part = Written(entry["PartNumber"], entry["ETag"], entry.get("ChecksumCRC32C", ""))
                found[part.number, part.crc32c] = part
            if not answer.get("IsTruncated"):
                return found
            further = {"PartNumberMarker": answer["NextPartNumberMarker"]}

    def _takes_none(self, what: str) -> StoreUnavailable:
        return StoreUnavailable(f"The store {self._url} takes no part of an upload: {what}")

    def _size(self, path: str) -> int | None:
        try:
            return int(self._call("head_object", path)["ContentLength"])
        except FileNotFoundError:
            return None

    def _call(self, method: str, path: str, flow: Flow | None = None, **values: Any) -> dict[str, Any]:
        """Call S3. Raises FileNotFoundError where S3 says that there is no such upload or object."""
        key = {"Key": self._key(path)} if path else {}
        call = cast("Callable[..., Coroutine[Any, Any, dict[str, Any]]]", self._fs._call_s3)
        work = call(method, Bucket=self._bucket, **key, **values)
        try:
            return (flow or unstoppable()).run(self._fs.loop, work)
        except FileNotFoundError:
            raise
        except OSError as error:
            if _code(error) in _UNFIT:
                raise
            raise StoreUnavailable(f"The store {self._url} does not answer at {path}: {error}") from error
        except Interrupted:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise StoreUnavailable(f"The store {self._url} does not answer at {path}: {what}") from error

    def _gone(self, path: str) -> UploadGone:
        return UploadGone(
            f"The multipart upload of {path} in {self._url} is gone: it was completed or aborted, by hand or by a "
            f"rule of the bucket for incomplete uploads."
        )


def _note(part: Written) -> str:
    return f"{part.tag} {part.crc32c}" if part.crc32c else part.tag


def _noted(number: int, tag: str) -> Written:
    """A part from its tag; one that an older version has noted has no sum."""
    etag, _, crc = tag.partition(" ")
    return Written(number, etag, crc)


def _code(error: BaseException) -> str:
    """What S3 calls an error that s3fs has put into words of Python."""
    answer: Any = getattr(error.__cause__, "response", None)
    return cast("str", answer["Error"].get("Code", "")) if answer else ""
