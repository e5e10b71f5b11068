"""Bucket listings: keys in OSS order (by their UTF-8 bytes), pages, common prefixes."""

import os
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wesemu.storage.buckets import is_reserved

_LAST = chr(0x10FFFF)
"""Sorts after every continuation of a key; Python strings sort as their UTF-8 bytes."""


@dataclass(frozen=True, slots=True)
class KeyPage:
    """One page of a listing. The next page starts after `after`; None on the last page."""

    keys: list[str]
    prefixes: list[str]
    after: str | None


class KeyWalk:
    """Iterates over the keys in `folder` that begin with `prefix` and sort after `after`.

    `is_object` decides whether a link, or a folder (key with a final `/`), is an object. Links to
    folders are not followed, since they may form a cycle.
    """

    def __init__(
        self, folder: Path, prefix: str, after: str, is_object: Callable[[str], bool]
    ) -> None:
        self._folder = folder
        self._prefix = prefix
        self._after = after
        self._is_object = is_object

    def __iter__(self) -> Iterator[str]:
        return self._below(str(self._folder), "")

    def skip(self, prefix: str) -> None:
        """Skip the remaining keys that begin with `prefix`."""
        self._after = prefix + _LAST

    def _below(self, directory: str, base: str) -> Iterator[str]:
        for key, entry in _sorted_entries(directory, base):
            if key.endswith("/"):
                if not self._may_hold_matches(key):
                    continue
                if self._matches(key) and self._is_object(key):
                    yield key
                yield from self._below(entry.path, key)
            elif self._matches(key) and (
                entry.is_file(follow_symlinks=False) or self._is_object(key)
            ):
                yield key

    def _may_hold_matches(self, key: str) -> bool:
        """Return False if all keys of the folder are outside the prefix or already passed."""
        if not key.startswith(self._prefix) and not self._prefix.startswith(key):
            return False
        return self._after < key or self._after.startswith(key)

    def _matches(self, key: str) -> bool:
        return key > self._after and key.startswith(self._prefix)


def page(walk: KeyWalk, *, prefix: str, delimiter: str, after: str, limit: int) -> KeyPage:
    """Return at most `limit` keys and common prefixes. `walk` starts after `after`.

    A common prefix ends with the first `delimiter` after `prefix` and stands for all keys that
    begin with it.
    """
    keys: list[str] = []
    prefixes: list[str] = []
    last = after
    for key in walk:
        end = key.find(delimiter, len(prefix)) if delimiter else -1
        common = key[: end + len(delimiter)] if end >= 0 else ""
        if common and common <= after:  # an earlier page has returned this prefix
            walk.skip(common)
            continue
        if len(keys) + len(prefixes) == limit:
            return KeyPage(keys, prefixes, last)
        if common:
            prefixes.append(common)
            walk.skip(common)
        else:
            keys.append(key)
        last = common or key
    return KeyPage(keys, prefixes, None)


def _sorted_entries(directory: str, base: str) -> list[tuple[str, os.DirEntry[str]]]:
    """Return (key, entry) pairs in key order; the key of a folder ends with `/`."""
    pairs = []
    try:
        entries = os.scandir(directory)
    except (FileNotFoundError, NotADirectoryError):  # removed or replaced meanwhile
        return []
    with entries:
        for entry in entries:
            slash = "/" if entry.is_dir(follow_symlinks=False) else ""
            key = f"{base}{entry.name}{slash}"
            if not is_reserved(base + entry.name) and _is_valid_name(entry.name):
                pairs.append((key, entry))
    return sorted(pairs, key=lambda pair: pair[0])


def _is_valid_name(name: str) -> bool:
    """Return True for a name that `Buckets.locate` accepts."""
    return name.isprintable() or not any(
        unicodedata.category(letter).startswith("C") for letter in name
    )
