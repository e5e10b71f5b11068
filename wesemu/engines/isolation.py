"""Isolation of a process by Linux system calls: Landlock (landlock(7)), namespaces (namespaces(7)).

No change can be undone. Landlock restricts access to file hierarchies, TCP and signals; any user
may use it. It restricts neither metadata (stat) nor connections to named unix sockets. Namespaces
remove the network or give a private /tmp; the calling process must have one thread. Users other
than root need a user namespace as well, in which they keep their user id.

At import, this module loads only the standard library: `namespace_allowed` runs this file as a
program.
"""

import ctypes
import fcntl
import os
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from enum import IntFlag
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
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


def landlock_version() -> int:
    """Return the version of the kernel interface, or 0 without Landlock."""
    if sys.platform != "linux":
        return 0
    result: int = _library().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION_FLAG)
    return max(0, result)


def restrict_access(rules: Iterable[tuple[str, FileAccess]], *, deny_tcp: bool) -> None:
    """Restrict this process to `rules`: file hierarchies with their allowed access.

    Skips missing paths. From version 6 on, also blocks signals and abstract unix sockets to
    outside processes. The process must have one thread; other threads would keep their rights.
    Raises EngineFault if the kernel refuses.
    """
    newest = landlock_version()
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


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    return library


def _refused(what: str) -> "EngineFault":
    from wesemu.errors import EngineFault

    reason = os.strerror(ctypes.get_errno())
    return EngineFault(f"the sandbox cannot be entered: {what}: {reason}")


Kind = Literal["mounts", "network"]

TEMPORARY = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108  replaced, not used

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000

_OPEN_TREE = 428
_MOVE_MOUNT = 429
_MOUNT_SETATTR = 442
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_MOUNT_ATTR_RDONLY = 0x1
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_AT_FDCWD = -100

_MS_REC_SLAVE = 0x4000 | 0x80000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1


def namespace_allowed(kind: Kind) -> bool:
    """Return whether this user may create the namespace; tries it in a child. Blocks."""
    if sys.platform != "linux":
        return False
    command = [sys.executable, "-I", "-S", __file__, kind]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def leave_network() -> None:
    """Move to a network namespace that has only a loopback device."""
    _unshare(_CLONE_NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", _IFF_UP)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


def replace_temporary(
    folder: Path, *, shown: Sequence[Path], writable: Sequence[Path], hidden: Sequence[Path]
) -> None:
    """Mount `folder` over /tmp and /var/tmp, for this process and its later children.

    Entries of /tmp that lead to a path in `shown` or `writable` stay visible. They are read-only,
    except for `writable`. Paths in `hidden` become empty, except for parts that are in `shown` or
    `writable`.
    """
    covered = covered_folders([*shown, *writable, *hidden])
    _unshare(_CLONE_NEWNS)
    # without this the mounts below would reach the rest of the machine (mount_namespaces(7))
    _check(_library().mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC_SLAVE), None))
    kept_tops = {top for path in (*shown, *writable) for top in tops(path, covered)}
    closed = [path for path in hidden if is_below(path, kept_tops) and path.exists()]
    changeable = {path.resolve() for path in writable}
    readable = {path.resolve() for path in shown} if closed else set()
    kept = {path for path in readable if is_below(path, closed)} | changeable
    # clone first: the next mounts cover these paths
    clones = {
        path: _clone(path, read_only=path not in changeable)
        for path in sorted(kept)  # folders before their content
        if is_below(path, kept_tops) and path.exists()
    }
    _replace(folder, covered, kept_tops)
    for path in closed:
        _cover(path)
    for path, clone in clones.items():
        if is_below(path, closed):
            _make_mount_point(path, clone)
        _attach(clone, path)
    for path in closed:
        if path.is_dir():
            _make_read_only(path)
    working = Path.cwd()  # otherwise the process stays in the covered folder
    os.chdir(working if working.is_dir() else "/")


def covered_folders(kept: Sequence[Path]) -> set[Path]:
    """Return the temporary folders to replace: those that are not in `kept` themselves."""
    return {path.resolve() for path in TEMPORARY if path.is_dir()}.difference(kept)


def tops(path: Path, covered: set[Path]) -> set[Path]:
    """Return the entries of covered folders that lead to `path`, including links."""
    return {
        folder / each.relative_to(folder).parts[0]
        for each in {path, path.resolve()}
        for folder in covered.intersection(each.parents)
    }


def is_below(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _replace(folder: Path, covered: set[Path], tops: set[Path]) -> None:
    """Mount `folder` over the covered folders; entries of these in `tops` stay visible."""
    links = {top: top.readlink() for top in tops if top.is_symlink()}
    clones = {top: _clone(top, read_only=True) for top in tops - links.keys() if top.exists()}
    for path, clone in {path: _clone(folder, read_only=False) for path in covered}.items():
        _attach(clone, path)
    for top, clone in clones.items():
        _attach_at_new_name(clone, top)
    for top, target in links.items():
        with suppress(FileExistsError):
            top.symlink_to(target)


def _attach_at_new_name(clone: int, path: Path) -> None:
    """Create a mount point and call `_attach`. A workflow may have created the name before."""
    with suppress(FileExistsError):
        if stat.S_ISDIR(os.fstat(clone).st_mode):
            path.mkdir()
        else:
            path.touch(exist_ok=False)
    _attach(clone, path)


def _make_mount_point(path: Path, clone: int) -> None:
    """Create the mount point of `clone` in the empty folder that covers a hidden one."""
    if stat.S_ISDIR(os.fstat(clone).st_mode):
        path.mkdir(parents=True, exist_ok=True)
    elif not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _cover(path: Path) -> None:
    """Mount an empty folder or an empty file over `path`."""
    if path.is_dir():
        _check(_library().mount(b"tmpfs", bytes(path), b"tmpfs", ctypes.c_ulong(0), b"size=1m"))
    else:
        _attach(_clone(Path(os.devnull), read_only=True), path)


def _clone(path: Path, *, read_only: bool) -> int:
    """Return a detached copy of the mounts at `path` (open_tree(2))."""
    flags = _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC
    clone = _check(_library().syscall(_OPEN_TREE, _AT_FDCWD, bytes(path), flags))
    if read_only:
        _set_read_only(clone, _AT_RECURSIVE)
    return clone


def _attach(clone: int, path: Path) -> None:
    """Mount `clone` on `path` without following links, and close it."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH
    _check(_library().syscall(_MOVE_MOUNT, clone, b"", _AT_FDCWD, bytes(path), flags))
    os.close(clone)


def _make_read_only(path: Path) -> None:
    mount = os.open(path, os.O_PATH | os.O_CLOEXEC)
    _set_read_only(mount)
    os.close(mount)


def _set_read_only(mount: int, recursive: int = 0) -> None:
    attributes = struct.pack("=4Q", _MOUNT_ATTR_RDONLY, 0, 0, 0)
    flags = _AT_EMPTY_PATH | recursive
    size = ctypes.c_size_t(len(attributes))
    _check(_library().syscall(_MOUNT_SETATTR, mount, b"", flags, attributes, size))


def _unshare(flags: int) -> None:
    """Create new namespaces. Without privileges, creates a user namespace as well."""
    user, group = os.geteuid(), os.getegid()
    library = _library()
    if library.unshare(flags) == 0:  # root, or already in a new user namespace
        return
    _check(-1 if user == 0 else library.unshare(flags | _CLONE_NEWUSER))
    # user_namespaces(7): an unprivileged process must deny setgroups before it maps its group
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _try(kind: str) -> None:
    if kind == "network":
        leave_network()
    else:
        replace_temporary(Path("/"), shown=(), writable=(), hidden=())


if __name__ == "__main__":
    _try(sys.argv[1])
