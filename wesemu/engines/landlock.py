"""Landlock, the kernel's access control for unprivileged processes (landlock(7)), by system calls.

A process restricts itself and its later children irrevocably. Rules grant access to file
hierarchies. Landlock does not restrict metadata (stat) or connections to named unix sockets.
"""

import ctypes
import os
import stat
import struct
import sys
from collections.abc import Iterable
from enum import IntFlag

from wesemu.errors import EngineFault

_CREATE_RULESET = 444
_ADD_RULE = 445
_RESTRICT_SELF = 446
_VERSION_FLAG = 1
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_NETWORK_TCP = 0b11
_SCOPE_SOCKETS_AND_SIGNALS = 0b11

SIGNALS_SINCE = 6
"""Version of the kernel interface that can block signals to outside processes."""
NETWORK_SINCE = 4
"""Version of the kernel interface that can deny TCP."""


class FileAccess(IntFlag):
    """Rights on files and folders; values as in linux/landlock.h."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


READ = FileAccess.EXECUTE | FileAccess.READ_FILE | FileAccess.READ_DIR
DEVICES = READ | FileAccess.WRITE_FILE | FileAccess.TRUNCATE | FileAccess.IOCTL_DEV
WRITE = FileAccess((1 << 16) - 1) & ~(FileAccess.MAKE_CHAR | FileAccess.MAKE_BLOCK)
_OF_FILES = DEVICES & ~FileAccess.READ_DIR


def version() -> int:
    """Return the version of the kernel interface, or 0 without Landlock."""
    if sys.platform != "linux":
        return 0
    result: int = _library().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION_FLAG)
    return max(0, result)


def restrict(rules: Iterable[tuple[str, FileAccess]], *, deny_tcp: bool) -> None:
    """Restrict this process to `rules`: file hierarchies with their allowed access.

    Skips missing paths. From version 6 on, also blocks signals and abstract unix sockets to
    outside processes. The process must have one thread; other threads would keep their rights.
    Raises EngineFault if the kernel refuses.
    """
    newest = version()
    handled = _handled(newest)
    attributes = struct.pack("=Q", handled)
    if newest >= NETWORK_SINCE:
        attributes += struct.pack("=Q", _NETWORK_TCP if deny_tcp else 0)
    if newest >= SIGNALS_SINCE:
        attributes += struct.pack("=Q", _SCOPE_SOCKETS_AND_SIGNALS)
    library = _library()
    ruleset = library.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        raise _refused("landlock_create_ruleset")
    try:
        for path, access in rules:
            _add(library, ruleset, path, access & handled)
        # the kernel requires this of unprivileged processes (landlock_restrict_self(2))
        if library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise _refused("prctl(PR_SET_NO_NEW_PRIVS)")
        if library.syscall(_RESTRICT_SELF, ruleset, 0) != 0:
            raise _refused("landlock_restrict_self")
    finally:
        os.close(ruleset)


def _handled(newest: int) -> FileAccess:
    """Return the rights that the kernel supports: each interface version added some."""
    known = FileAccess((1 << 13) - 1)
    for since, right in (
        (2, FileAccess.REFER),
        (3, FileAccess.TRUNCATE),
        (5, FileAccess.IOCTL_DEV),
    ):
        if newest >= since:
            known |= right
    return known


def _add(library: ctypes.CDLL, ruleset: int, path: str, access: FileAccess) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # missing, or below a folder without access
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= _OF_FILES
        if access and library.syscall(
            _ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", access, descriptor), 0
        ):
            raise _refused(f"landlock_add_rule for {path}")
    finally:
        os.close(descriptor)


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    return library


def _refused(what: str) -> EngineFault:
    reason = os.strerror(ctypes.get_errno())
    return EngineFault(f"the sandbox cannot be entered: {what}: {reason}")
