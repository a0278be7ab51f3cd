"""A file that is written: visible as a whole when it is closed, and never when what writes it fails."""

from __future__ import annotations

import atexit
import io
import logging
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Literal, Self, cast

from .sink import Sink

log = logging.getLogger(__name__)

State = Literal["open", "closed", "committed", "discarded"]

_open: weakref.WeakSet[WrittenFile] = weakref.WeakSet()
_TO_WATCH = threading.Lock()


class WrittenFile(io.BufferedIOBase):
    """One object that is written in order.

    `close()` makes it visible, at once and as a whole. An exception that leaves the `with` block around it, whether the
    block is this file's own or that of something that closes it (such as `fsspec.open`), discards it instead; so does
    `discard()`, losing the last reference to it, and the end of the process.

    Args:
        is_held: closing it does not make it visible; `commit()` does (a transaction).
        on_commit: called when it has become visible.
    """

    def __init__(
        self,
        sink: Sink,
        path: str,
        *,
        fs: Any = None,
        mode: str = "wb",
        is_held: bool = False,
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = self.full_name = self.name = path
        self.mode = mode
        self.fs = fs
        self.autocommit = not is_held
        self._sink = sink
        self._on_commit = on_commit
        self._state: State = "open"
        self._position = 0
        self._process = os.getpid()
        self._handled = sys.exc_info()[1]
        self._lock = threading.RLock()
        _watch(self)

    @property
    def closed(self) -> bool:
        return self._state != "open"

    @property
    def state(self) -> State:
        """Whether it can still be written, waits for `commit()`, is there, or never will be."""
        return self._state

    @property
    def size(self) -> int:
        """What was written so far, in bytes."""
        return self._position

    @property
    def is_ours(self) -> bool:
        """Whether this process opened it, and did not inherit it."""
        return self._process == os.getpid()

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        raise io.UnsupportedOperation(f"{self.path} is written in order; it has no other place to go to")

    def flush(self, force: bool = False) -> None:
        """Nothing: what was written is seen when the file is closed, and not before."""
        self._check_open()

    def write(self, data: Any, /, *, is_all: bool = False) -> int:
        """Take more bytes.

        Args:
            is_all: these are all of the object, which spares a copy.

        Raises:
            StoreUnavailable, PermissionError: what was written before could not be brought away.
        """
        with self._lock:
            self._check_open()
            view = memoryview(data)
            view = view.cast("B") if view.c_contiguous else memoryview(view.tobytes())
            if view:
                self._sink.write(view, is_all=is_all)
                self._position += len(view)
            return len(view)

    def close(self) -> None:
        """Make it visible; or, in a transaction, have it ready. Once it is closed, nothing.

        Raises:
            StoreUnavailable, PermissionError, FileExistsError: nothing is visible.
        """
        with self._lock:
            if self._state != "open":
                return
            failing = self._failing()
            if failing is not None:
                log.info("%s is discarded, since its block ends with %s", self.path, type(failing).__name__)
                self.discard()
                return
            self._or_discard(self._sink.finish)
            self._state = "closed"
            if self.autocommit:
                self.commit()

    def commit(self) -> None:
        """Make it visible, even where `close()` would not. Raises as `close()`."""
        with self._lock:
            if self._state == "open":
                self._or_discard(self._sink.finish)
                self._state = "closed"
            if self._state == "discarded":
                raise ValueError(f"{self.path} was discarded; write it again")
            if self._state == "closed":
                self._or_discard(self._sink.commit)
                self._state = "committed"
                self._on_commit()

    def discard(self) -> None:
        """Leave nothing behind. Of what is visible already nothing is taken back."""
        with self._lock:
            if self._state in ("open", "closed"):
                self._state = "discarded"
                if self.is_ours:  # a forked child's copy is not its own
                    self._sink.discard()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        state = getattr(self, "_state", "discarded")
        if state not in ("open", "closed") or not self.is_ours or sys.is_finalizing():
            return
        self._state = "discarded"
        # Not here: this may be any thread, even one that this very object's requests wait for.
        threading.Thread(target=self._sink.discard, name="holdshort-discard", daemon=True).start()
        warnings.warn(
            f"{self.path} was opened to be written and never closed; it is discarded. Use a with block, or close().",
            ResourceWarning,
            source=self,
            stacklevel=2,
        )

    # -- inside ------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._state != "open":
            raise ValueError(f"{self.path} is closed")
        if not self.is_ours:
            raise ValueError(f"{self.path} was opened by another process; a forked child has to open its own")

    def _or_discard(self, act: Callable[[], None]) -> None:
        if not self.is_ours:
            raise ValueError(f"{self.path} was opened by another process, which has to close it")
        try:
            act()
        except BaseException:
            self.discard()
            raise

    def _failing(self) -> BaseException | None:
        """The exception that makes some `with` block end that closes this file now, if there is one.

        What closes a file need not tell why: fsspec's OpenFile, for one, closes its files whether its block ends well
        or not. An exception that merely is being handled, and a block that began to fail before this file was opened,
        say nothing about this file.
        """
        error = sys.exc_info()[1]
        if error is None or error is self._handled:
            return None
        frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
        while frame is not None:
            if frame.f_code.co_name == "__exit__" and _is_given(error, frame):
                return error
            frame = frame.f_back
        return None


class TextFile(io.TextIOWrapper):
    """Text that is written to such a file; discarded when its block ends by an exception, as that is."""

    def __init__(self, file: Any, **kwargs: Any) -> None:
        super().__init__(file, **kwargs)
        self._file = file

    def discard(self) -> None:
        """Leave nothing behind."""
        self._file.discard()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()
        super().__exit__(kind, error, trace)

    def __del__(self) -> None:
        # Its base would close, and so commit, what nobody has closed.
        file = getattr(self, "_file", None)
        if file is not None and not file.closed:
            file.__del__()


class CompressedFile(io.BufferedIOBase):
    """Bytes that are compressed on their way to such a file, which is closed with it.

    Args:
        compress: makes the compressing file around another one.
    """

    def __init__(self, file: WrittenFile, compress: Callable[[WrittenFile], Any]) -> None:
        self._file = file
        self._compressing = compress(file)
        self.path = self.full_name = self.name = file.path
        self.mode = file.mode

    @property
    def closed(self) -> bool:
        return self._file.closed

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return int(self._compressing.write(data) or len(memoryview(data).cast("B")))

    def tell(self) -> int:
        return int(self._compressing.tell())

    def flush(self) -> None:
        if not self.closed:
            self._compressing.flush()

    def close(self) -> None:
        """Make it visible; see WrittenFile."""
        if not self.closed:
            try:
                self._compressing.close()
            except BaseException:
                self.discard()
                raise
            self._file.close()

    def discard(self) -> None:
        """Leave nothing behind."""
        self._file.discard()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        file = getattr(self, "_file", None)
        if file is not None and not file.closed:
            file.__del__()


def compressed(file: Any, path: str, name: str) -> Any:
    """A file whose bytes are compressed on their way to another; that one, if by its name there is nothing to do.

    Args:
        name: of the compression, as fsspec knows it, or "infer".
    """
    from fsspec import compression, core

    codecs: Any = compression
    names: Any = core
    found = names.get_compression(path, name)
    if found is None:
        return file
    compress: Any = codecs.compr[found]
    if isinstance(file, WrittenFile):
        return CompressedFile(file, lambda inner: compress(inner, mode="wb"))
    return compress(file, mode="wb")


def _is_given(error: BaseException, frame: FrameType) -> bool:
    """Whether an exception is among the arguments of a call of `__exit__`."""
    code = frame.f_code
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 4) + bool(code.co_flags & 8)
    for name in code.co_varnames[:count]:
        value: Any = frame.f_locals.get(name)
        if value is error or (isinstance(value, tuple) and any(each is error for each in cast("tuple[Any]", value))):
            return True
    return False


def _watch(file: WrittenFile) -> None:
    """Remember it, so that it is discarded before this process ends."""
    with _TO_WATCH:
        if not _open:
            atexit.unregister(_discard_all)
            atexit.register(_discard_all)
        _open.add(file)


def _discard_all() -> None:
    for file in list(_open):
        if not file.closed and file.is_ours:
            log.warning("%s was opened to be written and never closed; it is discarded", file.path)
        file.discard()
