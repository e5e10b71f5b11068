"""Blocks of the disk that a file owns before it needs them, so that a full disk cannot stop it."""

import ctypes
import os
from collections.abc import Callable
from functools import cache

_KEEP_SIZE = 1
"""FALLOC_FL_KEEP_SIZE of fallocate(2): the blocks lie behind the end of the file."""


def allocate(descriptor: int, size: int) -> bool:
    """Own room for `size` bytes more than the file has. False where that cannot be had: the disk
    is full, or its file system or the operating system knows no such thing."""
    call = _fallocate()
    return (
        call is not None and call(descriptor, _KEEP_SIZE, os.fstat(descriptor).st_size, size) == 0
    )


def release(descriptor: int) -> None:
    """Give back what `allocate` has left behind the end of the file."""
    os.ftruncate(descriptor, os.fstat(descriptor).st_size)


@cache
def _fallocate() -> Callable[[int, int, int, int], int] | None:
    call = getattr(ctypes.CDLL(None), "fallocate64", None)
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return call
