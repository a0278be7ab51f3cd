"""A bell that all processes of a host can hear: who waits for a change of the lane need not look again and again.

It is a futex, the Linux kernel's "sleep until this word of shared memory changes" (futex(2)). Looking every few
milliseconds instead would wake a worker hundreds of times a second while it is to stand still, and each time take a
core away from the live request that it stands still for.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import time
from collections.abc import Callable
from functools import cache

_NUMBERS = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "loongarch64": 98, "ppc64le": 221, "s390x": 238}
"""Of the system call on each machine; glibc has no function for it."""
_WAIT, _WAKE, _ALL = 0, 1, 2**31 - 1
_LOOK_S = 0.002

_SystemCall = Callable[[ctypes.c_void_p, int, int, object], None]


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class Bell:
    """A word in an open file that is shared by those who ring and those who wait.

    A ring is meant to be heard, but one may be missed: when the file was replaced meanwhile, or where the system has
    no futex. So whoever waits sets a limit, and looks again after it.

    Args:
        descriptor: of a file of at least `at` + 4 bytes, open for reading and writing; may be closed afterwards.
        at: where the word lies; a multiple of 4.
    """

    def __init__(self, descriptor: int, at: int) -> None:
        found = os.fstat(descriptor)
        self.file = (found.st_dev, found.st_ino)
        """Which file it is in, for whoever wants to know whether that was replaced."""
        memory = mmap.mmap(descriptor, at + ctypes.sizeof(ctypes.c_uint32), access=mmap.ACCESS_WRITE)
        self._word = ctypes.c_uint32.from_buffer(memory, at)
        self._at = ctypes.c_void_p(ctypes.addressof(self._word))

    @property
    def rung(self) -> int:
        """Another number after each ring. Take it before looking at what the bell is for."""
        return self._word.value

    def ring(self) -> None:
        """Wake everybody who waits. Costs about a microsecond."""
        # Not one more than before: two who ring at once would write the same number.
        self._word.value = time.monotonic_ns() & 0xFFFFFFFF
        if (wake := _wake()) is not None:
            wake(self._at, _WAKE, _ALL, None)

    def wait(self, rung: int, timeout_s: float) -> None:
        """Return when it was rung since `rung` was its number, or after so many seconds; now and then for nothing."""
        if (wait := _wait()) is not None:
            wait(self._at, _WAIT, rung, _time_spec(max(0.0, timeout_s)))
            return
        end = time.monotonic() + timeout_s
        while self._word.value == rung and (left_s := end - time.monotonic()) > 0:
            time.sleep(min(_LOOK_S, left_s))


def _time_spec(seconds: float) -> object:
    whole = int(seconds)
    return ctypes.byref(_TimeSpec(whole, int((seconds - whole) * 1e9)))


@cache
def _wait() -> _SystemCall | None:
    return _system_call(ctypes.CDLL)


@cache
def _wake() -> _SystemCall | None:
    # It never blocks, so it keeps the interpreter's lock: to let go of that for a microsecond at each call, and take
    # it again before anybody else could, would starve this process's other threads.
    return _system_call(ctypes.PyDLL)


def _system_call(library: type[ctypes.CDLL]) -> _SystemCall | None:
    number = _NUMBERS.get(platform.machine())
    if number is None or platform.system() != "Linux" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    call = library(None).syscall
    call.restype = ctypes.c_long
    call.argtypes = (
        ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32
    )  # fmt: skip

    def futex(at: ctypes.c_void_p, operation: int, value: int, timeout: object) -> None:
        # Whatever it answers (rung already, time is over, a signal came): who waits looks again.
        call(number, at, operation, value, timeout, None, 0)

    return futex
