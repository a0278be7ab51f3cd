"""S3 by signed requests: parts go up many at once, straight from where they lie."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ...profiles.access import MIB, Access
from ...profiles.sizing import size as amount
from ..connections import Body
from ..errors import StoreError
from ..reading.fetching import Fetcher
from ..reading.origin import Abandoned
from ..s3 import signing
from ..s3.objects import Objects, Upload, Written, headers_of
from ..s3.requests import S3Requests
from .parts import LEAST_PART, MOST_BYTES, MOST_PARTS, even_part, growing_part
from .pieces import Pieces, Pins

_FIRST_BUFFER, _GROWTH = 256 * 1024, 4
_PATIENCE_S = 60.0
_AHEAD = 1.25
"""So many more parts than requests may be under way are held at most: enough that none of those has to wait."""


class SignedS3Target:
    """Objects of one s3fs file system."""

    def __init__(self, fs: Any, fetcher: Fetcher) -> None:
        self._fs = fs
        self._fetcher = fetcher
        self._objects = Objects(S3Requests(fs, fetcher.refused))
        self.close = self._objects.close

    def sink(
        self,
        path: str,
        access: Access,
        *,
        is_new: bool,
        is_held: bool,
        size_bytes: int | None,
        settings: Mapping[str, Any],
    ) -> SignedS3Sink | None:
        headers = headers_of({**self._fs.s3_additional_kwargs, **settings})
        if headers is None or not signing.can_sign(self._fs, path):
            return None
        if is_new and self._objects.exists(path):
            raise FileExistsError(f"s3://{path} exists")
        upload = Upload(self._objects, path, headers, is_new=is_new)
        return SignedS3Sink(self._fetcher, upload, access.part_bytes, is_held, size_bytes, self._forget)

    def _forget(self, path: str) -> None:
        while path:
            self._fs.invalidate_cache(path)
            path = path.rpartition("/")[0]


class SignedS3Sink:
    """One object on its way to S3: one request up to the size of a part, a multipart upload above.

    Args:
        forget: called with the path once it is visible.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        upload: Upload,
        part_bytes: int,
        is_held: bool,
        size_bytes: int | None,
        forget: Callable[[str], None],
    ) -> None:
        self._fetcher = fetcher
        self._upload = upload
        self._part_bytes = part_bytes if size_bytes is None else even_part(size_bytes, part_bytes)
        self._is_held = is_held
        self._forget = forget
        self._buffer: mmap.mmap | None = None
        self._pins = Pins(fetcher.buffers)
        self._pieces: list[memoryview] = []
        self._filled = 0
        self._taken_bytes = 0
        self._is_done = False
        self._parts: dict[int, Written] = {}
        self._number = 0
        self._news = threading.Condition()
        self._under_way = 0
        self._error: BaseException | None = None
        self._is_dropped = False

    def write(self, data: memoryview, *, is_all: bool = False) -> None:
        self._raise_failure()
        self._taken_bytes += len(data)
        if self._taken_bytes > MOST_BYTES:
            raise StoreError(f"s3://{self._upload.path} would be larger than 5 TiB, the most that S3 takes.")
        if is_all and self._number == 0 and self._buffer is None:
            self._write_all(data)
            return
        whole_bytes = len(data)
        while data:
            limit = self._limit()
            if not self._filled and len(data) >= limit * self._fetcher.pace.limit:
                # It fills all requests by itself, so nothing is gained by taking a copy.
                data = self._send_from(data, limit, self._fetcher.pace.limit)
                continue
            piece = data[: limit - self._filled]
            if self._buffer is None and self._pins.pin(piece, whole_bytes):
                if not self._pieces:
                    self._hold_back_or_unpin(piece)
                self._pieces.append(piece)
                self._filled += len(piece)
                data = data[len(piece) :]
                if self._filled == limit:
                    self._send_pieces()
                continue
            self._copy_pieces(limit)
            data = self._copy(data, limit)
            if self._filled == limit:
                self._send_buffer()

    def finish(self) -> None:
        self._raise_failure()
        is_small = self._number == 0
        if not is_small or self._is_held:
            if self._pieces:
                self._send_pieces()
            if self._buffer is not None:
                self._send_buffer()
        self._wait()
        self._raise_failure()

    def commit(self) -> None:
        if self._number:
            self._upload.complete([self._parts[number] for number in range(1, self._number + 1)])
        elif not self._is_done:
            self._put(Pieces(self._pieces) if self._buffer is None else memoryview(self._buffer)[: self._filled])
            self._drop_buffer()
        self._forget(self._upload.path)

    def discard(self) -> None:
        self._is_dropped = True
        self._wait()
        self._drop_buffer()
        self._upload.abort()

    # -- inside ------------------------------------------------------------------------------------------

    def _limit(self) -> int:
        """How large the part that is being filled becomes."""
        wanted = growing_part(self._number + 1, self._part_bytes)
        return min(wanted, max(LEAST_PART, self._fetcher.buffers.most_bytes // 4 // MIB * MIB))

    def _write_all(self, data: memoryview) -> None:
        part_bytes = even_part(len(data), self._part_bytes)
        if len(data) <= part_bytes and not self._is_held:
            self._put(data)
            return
        self._send_from(data, part_bytes, MOST_PARTS)

    def _put(self, data: Body) -> None:
        self._upload.put(data)
        self._is_done = True

    def _room(self, limit: int, wanted: int) -> memoryview:
        """Where the next bytes go: a buffer that is as large as a part, once it is known that there will be several."""
        buffer = self._buffer
        if buffer is None:
            size = limit if self._number else min(limit, max(_FIRST_BUFFER, wanted))
            self._hold_back()
            self._buffer = self._take(size)
        elif self._filled == len(buffer):
            larger = self._take(min(limit, max(_GROWTH * len(buffer), self._filled + wanted)))
            with memoryview(buffer) as view, memoryview(larger) as copy:
                copy[: self._filled] = view
            self._buffer = larger
            self._fetcher.buffers.give_back(buffer)
        assert self._buffer is not None
        return memoryview(self._buffer)[self._filled : limit]

    def _hold_back(self) -> None:
        """Wait as long as enough parts are on their way."""
        with self._news:
            while self._under_way >= self._fetcher.pace.limit * _AHEAD and self._error is None:
                self._news.wait()
        self._raise_failure()

    def _take(self, size: int) -> mmap.mmap:
        buffers = self._fetcher.buffers
        while True:
            # As long as parts of this object are on their way, memory will come back.
            found = buffers.take_to_write(size, _PATIENCE_S)
            if found is not None:
                return found
            self._raise_failure()
            if not self._under_way:
                raise StoreError(
                    f"s3://{self._upload.path} can't be written on: open files of this process hold all of the "
                    f"{amount(buffers.most_bytes)} that they may (memory_bytes), and gave nothing of it back for "
                    f"{_PATIENCE_S:.0f} s. Close some of them, or set memory_bytes higher."
                )

    def _hold_back_or_unpin(self, piece: memoryview) -> None:
        try:
            self._hold_back()
        except BaseException:
            self._pins.unpin([piece])
            raise

    def _send_pieces(self) -> None:
        pieces, self._pieces, self._filled = self._pieces, [], 0
        self._send(Pieces(pieces), lambda: self._pins.unpin(pieces))

    def _copy(self, data: memoryview, limit: int) -> memoryview:
        """Copy as much as there is room for in the buffer; returns what is left."""
        room = self._room(limit, len(data))
        taken = min(len(room), len(data))
        room[:taken] = data[:taken]
        self._filled += taken
        return data[taken:]

    def _copy_pieces(self, limit: int) -> None:
        """The part that is being filled goes on in a buffer."""
        if not self._pieces:
            return
        pieces, self._pieces, self._filled = self._pieces, [], 0
        self._pins.unpin(pieces)  # not after the buffer is taken, which might wait for that very memory
        try:
            for piece in pieces:
                while piece:
                    piece = self._copy(piece, limit)
        except BaseException as error:
            self._error = self._error or error  # they are lost, so nothing of this may become visible
            raise

    def _send_buffer(self) -> None:
        buffer, length = self._buffer, self._filled
        assert buffer is not None
        self._buffer, self._filled = None, 0
        self._send(memoryview(buffer)[:length], lambda: self._fetcher.buffers.give_back(buffer))

    def _send_from(self, data: memoryview, part_bytes: int, parts: int) -> memoryview:
        """Send so many parts, or fewer if there is less, from memory that is the caller's; returns what is left."""
        end = 0
        try:
            for _ in range(parts):
                if end == len(data) or self._error is not None:
                    break
                begin, end = end, min(len(data), end + part_bytes)
                self._send(data[begin:end], lambda: None)
        except BaseException:
            self._is_dropped = True
            raise
        finally:
            self._wait()
        self._raise_failure()
        return data[end:]

    def _send(self, data: Body, let_go: Callable[[], None]) -> None:
        if self._number == MOST_PARTS:
            let_go()
            raise StoreError(
                f"s3://{self._upload.path} would have more than {MOST_PARTS} parts, the most that S3 takes. Set "
                f"memory_bytes higher, so that parts may be larger, or write it by put_file() or pipe_file()."
            )
        self._number += 1
        number = self._number
        with self._news:
            self._under_way += 1

        def run() -> int:
            sent = 0
            try:
                self._sending()
                self._parts[number] = self._upload.part(number, data, self._sending)
                sent = len(data)
            except Abandoned:
                pass
            except BaseException as error:  # noqa: BLE001 - whoever writes on, or closes, raises it
                self._error = self._error or error
            let_go()
            with self._news:
                self._under_way -= 1
                self._news.notify_all()
            return sent

        self._fetcher.submit(run)

    def _sending(self) -> None:
        """Called again and again while parts are sent."""
        if self._is_dropped or self._error is not None:
            raise Abandoned

    def _wait(self) -> None:
        """Wait until no part is on its way; if that is interrupted, until they have broken off."""
        interrupted: BaseException | None = None
        while True:
            try:
                with self._news:
                    while self._under_way:
                        self._news.wait()
                break
            except BaseException as error:  # noqa: BLE001 - raised below
                self._is_dropped, interrupted = True, error
        if interrupted is not None:
            raise interrupted

    def _raise_failure(self) -> None:
        if self._error is not None:
            raise self._error

    def _drop_buffer(self) -> None:
        pieces, self._pieces = self._pieces, []
        self._pins.unpin(pieces)
        buffer, self._buffer, self._filled = self._buffer, None, 0
        if buffer is not None:
            self._fetcher.buffers.give_back(buffer)
