"""Buckets: a bucket is a folder below one root, a key the path below it.

A folder (or a link to one) that a user makes by hand is a bucket. Everything here is synchronous
and quick; callers on the event loop use `asyncio.to_thread`.
"""

import errno
import os
import re
import unicodedata
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from wesemu.errors import BucketNameRefused, BucketNotFound, InvalidRequest, ObjectNotFound
from wesemu.objects.hidden import is_hidden

SCHEME = "oss://"
_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_KEY_LIMIT = 1023
_PART_LIMIT = 255
_NAMES_SHOWN = 10
_NAMES_READ = 1000


class Buckets:
    """The buckets below `root`.

    `field` names the parameter that the caller filled in; every error carries it on.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> list[str]:
        """The buckets there are, sorted; folders whose name no bucket can have are left out."""
        if not self._root.is_dir():
            return []
        return sorted(
            entry.name
            for entry in self._root.iterdir()
            if _BUCKET_NAME.fullmatch(entry.name) and entry.is_dir()
        )

    def locate(self, bucket: str, key: str, *, field: str | None = None) -> Path:
        """The path that a key stands for, whether or not something lies there.

        The path lies in its bucket, also after all links are followed. Raises InvalidRequest
        for a bucket name or key that OSS or the file system cannot have, that leaves the bucket
        or names the server's own files in it; BucketNotFound.
        """
        folder = self.folder(bucket, field=field)
        path = folder.joinpath(*check_key(key, field=field))
        inside = _inside(folder, path)
        if inside is None:
            raise InvalidRequest(
                f"the key {_shown(key)} is a link that leads out of the bucket {bucket!r}; "
                "copy the file into the bucket",
                field=field,
            )
        if is_hidden(key) or is_hidden(inside) or self._is_reserved(folder, path):
            raise InvalidRequest(
                f"the key {_shown(key)} is kept for the server's own files (.wesemu/ at a bucket's "
                "top, and names like .x.part); choose another name",
                field=field,
            )
        return path

    def existing(self, url: str, *, field: str | None = None) -> Path:
        """The file or folder at an `oss://` location; a folder's key may end with `/`.

        Raises as `locate`, and ObjectNotFound.
        """
        bucket, key = parse(url, field=field)
        path = self.locate(bucket, key.removesuffix("/"), field=field)
        if not path.exists():
            raise ObjectNotFound(
                f"the bucket {bucket!r} has no {_shown(key)}; {_nearby(path)}", field=field
            )
        return path

    def existing_file(self, url: str, *, field: str | None = None) -> Path:
        """The file at an `oss://` location. Raises as `existing`."""
        path = self.existing(url, field=field)
        if not path.is_file():
            raise ObjectNotFound(f"{url} is a folder; name a file in it", field=field)
        return path

    def target(self, url: str, *, field: str | None = None) -> Path:
        """The path where an output may be written; its folders need not be there yet.

        Raises as `locate`, and InvalidRequest where a folder is in the way of the file, or a
        file in the way of its folders.
        """
        bucket, key = parse(url, field=field)
        path = self.locate(bucket, key, field=field)
        if path.is_dir():
            raise InvalidRequest(f"{url} is a folder; name the file to write", field=field)
        folder = self._root / bucket
        for parent in path.relative_to(folder).parents:
            if (folder / parent).exists() and not (folder / parent).is_dir():
                raise InvalidRequest(
                    f"{url} cannot be written: {str(parent)!r} is a file, not a folder",
                    field=field,
                )
        return path

    def folder(self, bucket: str, *, field: str | None = None) -> Path:
        """Raises BucketNameRefused, BucketNotFound."""
        if not _BUCKET_NAME.fullmatch(bucket):
            raise BucketNameRefused(
                f"{_shown(bucket)} is not a bucket name: 3 to 63 lower-case letters, digits and "
                "hyphens, with a letter or digit at both ends",
                field=field,
            )
        folder = self._root / bucket
        if not folder.is_dir():
            raise BucketNotFound(
                f"there is no bucket {bucket!r}; {_listed(self.names())}; make the folder "
                f"'buckets/{bucket}' in the data directory to have it",
                field=field,
            )
        return folder

    def _is_reserved(self, folder: Path, path: Path) -> bool:
        """Whether a bucket that is a link leads to the server's own files in another bucket."""
        if not folder.is_symlink():
            return False
        below = _inside(self._root, path)
        return below is not None and is_hidden(below.partition("/")[2])


def parse(url: str, *, field: str | None = None) -> tuple[str, str]:
    """Bucket and key of `oss://bucket/key`; nothing in it is percent-decoded.

    Raises InvalidRequest for anything else.
    """
    bucket, slash, key = url.removeprefix(SCHEME).partition("/")
    if not url.startswith(SCHEME) or not slash or not key:
        raise InvalidRequest(
            f"{_shown(url)} is not a location in a bucket; write oss://<bucket>/<key>",
            field=field,
        )
    return bucket, key


def check_key(key: str, *, field: str | None = None) -> list[str]:
    """The names that a key's path has. Raises InvalidRequest for a key that is no path."""
    parts = key.split("/")
    if any(unicodedata.category(letter).startswith("C") for letter in key):
        fault = "has a control character or one that is no character"
    elif key.startswith(("/", "\\")):
        fault = "is absolute; a key begins with a name"
    elif "" in parts:
        fault = "has an empty part; write single slashes between names and none at the end"
    elif ".." in parts or "." in parts:
        fault = "has '.' or '..'; write the path from the bucket's top"
    elif len(key.encode()) > _KEY_LIMIT:
        fault = f"is longer than {_KEY_LIMIT} bytes"
    elif any(len(part.encode()) > _PART_LIMIT for part in parts):
        fault = f"has a name longer than {_PART_LIMIT} bytes"
    else:
        return parts
    raise InvalidRequest(f"the key {_shown(key)} {fault}", field=field)


def _inside(folder: Path, path: Path) -> str | None:
    """The path below `folder` once all links are followed; None for one that leads out of it."""
    try:
        try:
            real = path.resolve(strict=True)
        except OSError as error:
            if error.errno == errno.ELOOP:  # which else is no error since Python 3.13
                return None
            real = path.resolve()
        return real.relative_to(folder.resolve()).as_posix()
    except (OSError, RuntimeError, ValueError):
        return None


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "…")


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "there are no buckets yet"
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"the buckets are {', '.join(names[:_NAMES_SHOWN])}{more}"


def _nearby(path: Path) -> str:
    """What there is instead of a missing path: names like it, or that its folder is missing."""
    if not path.parent.is_dir():
        return f"the folder {path.parent.name!r} is not there either"
    with os.scandir(path.parent) as entries:
        names = [entry.name for entry in islice(entries, _NAMES_READ)]
    close = get_close_matches(path.name, sorted(names), n=3)
    if close:
        return f"there is {' and '.join(repr(name) for name in close)}"
    return "upload it, or copy it into the bucket's folder"
