"""Linux namespaces (namespaces(7)) by system calls: a process leaves the machine's network, or gets
a /tmp of its own.

All of it is for processes with one thread, and there is no way back. A user other than root needs a
user namespace as well, in which it stays the same user. OSError where the kernel refuses.

Imports the standard library only: `allowed` runs this file as a program.
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
from pathlib import Path
from typing import Literal

Kind = Literal["mounts", "network"]

TEMPORARY = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108  what is replaced, not used

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
_HERE = -100
"""AT_FDCWD."""

_MS_REC_SLAVE = 0x4000 | 0x80000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1


def allowed(kind: Kind) -> bool:
    """Whether this user may have such a namespace here, tried in a process. Blocks."""
    if sys.platform != "linux":
        return False
    command = [sys.executable, "-I", "-S", __file__, kind]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def leave_network() -> None:
    """Move to a network with nothing but loopback."""
    _unshare(_CLONE_NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", _IFF_UP)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


def replace_temporary(
    folder: Path, *, shown: Sequence[Path], writable: Sequence[Path], hidden: Sequence[Path]
) -> None:
    """Put `folder` in place of /tmp and /var/tmp, for this process and its later children.

    What is directly in /tmp and leads to a path of `shown` or `writable` stays there, but can only
    be read, except for `writable`. Of `hidden` nothing is left but what is `shown` or `writable`.
    """
    covered = covered_folders([*shown, *writable, *hidden])
    _unshare(_CLONE_NEWNS)
    _check(_library().mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC_SLAVE), None))
    kept_tops = {top for path in (*shown, *writable) for top in tops(path, covered)}
    closed = [path for path in hidden if _is_below(path, kept_tops) and path.exists()]
    changeable = {path.resolve() for path in writable}
    kept = {path.resolve() for path in shown if _is_below(path.resolve(), closed)} | changeable
    # copies are made before anything is covered
    clones = {
        path: _clone(path, read_only=path not in changeable)
        for path in sorted(kept)  # folders before what is in them
        if _is_below(path, kept_tops) and path.exists()
    }
    _replace(folder, covered, kept_tops)
    for path in closed:
        _cover(path)
    for path, clone in clones.items():
        if _is_below(path, closed):
            _make_place(path, clone)
        _attach(clone, path)
    for path in closed:
        if path.is_dir():
            _make_read_only(path)
    working = Path.cwd()  # still the folder below what covers it
    os.chdir(working if working.is_dir() else "/")


def covered_folders(asked: Sequence[Path]) -> set[Path]:
    """The folders that are replaced: not those that are `asked` for as a whole."""
    return {path.resolve() for path in TEMPORARY if path.is_dir()}.difference(asked)


def tops(path: Path, covered: set[Path]) -> set[Path]:
    """What is directly in a covered folder on the way to `path`, links included."""
    return {
        folder / way.relative_to(folder).parts[0]
        for way in (path, path.resolve())
        for folder in covered.intersection(way.parents)
    }


def _is_below(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _replace(folder: Path, covered: set[Path], tops: set[Path]) -> None:
    """Cover with `folder`, in which `tops` reappear."""
    links = {top: top.readlink() for top in tops if top.is_symlink()}
    clones = {top: _clone(top, read_only=True) for top in tops - links.keys() if top.exists()}
    for path, clone in {path: _clone(folder, read_only=False) for path in covered}.items():
        _attach(clone, path)
    for top, clone in clones.items():
        _attach_among_files(clone, top)
    for top, target in links.items():
        with suppress(FileExistsError):
            top.symlink_to(target)


def _attach_among_files(clone: int, path: Path) -> None:
    """As `_attach`, in a folder that a workflow has written to."""
    with suppress(FileExistsError):
        if stat.S_ISDIR(os.fstat(clone).st_mode):
            path.mkdir()
        else:
            path.touch(exist_ok=False)
    _attach(clone, path)


def _make_place(path: Path, clone: int) -> None:
    """What `clone` is attached to, in the empty folder that covers a hidden one."""
    if stat.S_ISDIR(os.fstat(clone).st_mode):
        path.mkdir(parents=True, exist_ok=True)
    elif not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _cover(path: Path) -> None:
    """Put an empty folder, or an empty file, in place of what is there."""
    if path.is_dir():
        _check(_library().mount(b"tmpfs", bytes(path), b"tmpfs", ctypes.c_ulong(0), b"size=1m"))
    else:
        _attach(_clone(Path(os.devnull), read_only=True), path)


def _clone(path: Path, *, read_only: bool) -> int:
    """A copy of the mounts at `path` that is attached nowhere yet."""
    flags = _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC
    clone = _check(_library().syscall(_OPEN_TREE, _HERE, bytes(path), flags))
    if read_only:
        _set_read_only(clone, _AT_RECURSIVE)
    return clone


def _attach(clone: int, path: Path) -> None:
    """Mount on `path`; if that is a link, it is not followed. Closes `clone`."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH
    _check(_library().syscall(_MOVE_MOUNT, clone, b"", _HERE, bytes(path), flags))
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
    """Leave these namespaces. All rights in a new user namespace are this process's."""
    user, group = os.geteuid(), os.getegid()
    library = _library()
    if library.unshare(flags) == 0:  # as root, or in a user namespace of its own already
        return
    _check(-1 if user == 0 else library.unshare(flags | _CLONE_NEWUSER))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    return library


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
