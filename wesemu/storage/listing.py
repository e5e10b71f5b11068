"""The keys of a bucket in the order that OSS lists them: by their UTF-8 bytes."""

import os
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wesemu.storage.buckets import is_reserved

_LAST = chr(0x10FFFF)
"""Sorts behind everything that a key can go on with; strings sort as their UTF-8 does."""


@dataclass(frozen=True, slots=True)
class KeyPage:
    """A part of a listing. `after` is what the next part begins after; None at the end."""

    keys: list[str]
    prefixes: list[str]
    after: str | None


class KeyWalk:
    """The keys below `folder` that begin with `prefix` and come after `after`.

    `is_object` decides of a link, and of a folder (its key ends with `/`), whether it is an
    object. Links to folders are not followed: they may lead round in a circle.
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
        """Leave out what is left of the keys that begin with `prefix`."""
        self._after = prefix + _LAST

    def _below(self, directory: str, base: str) -> Iterator[str]:
        for key, entry in _sorted_entries(directory, base):
            if key.endswith("/"):
                if not self._leads_on(key):
                    continue
                if self._wanted(key) and self._is_object(key):
                    yield key
                yield from self._below(entry.path, key)
            elif self._wanted(key) and (entry.is_file(follow_symlinks=False) or self._linked(key)):
                yield key

    def _linked(self, key: str) -> bool:
        return self._is_object(key)

    def _leads_on(self, key: str) -> bool:
        """False for a folder all of whose keys are elsewhere or have been passed."""
        if not key.startswith(self._prefix) and not self._prefix.startswith(key):
            return False
        return self._after < key or self._after.startswith(key)

    def _wanted(self, key: str) -> bool:
        return key > self._after and key.startswith(self._prefix)


def page(walk: KeyWalk, *, prefix: str, delimiter: str, after: str, limit: int) -> KeyPage:
    """At most `limit` keys and common prefixes. `walk` begins after `after`.

    A common prefix ends with the first `delimiter` behind `prefix` and stands for all keys that
    begin with it.
    """
    keys: list[str] = []
    prefixes: list[str] = []
    last = after
    for key in walk:
        end = key.find(delimiter, len(prefix)) if delimiter else -1
        common = key[: end + len(delimiter)] if end >= 0 else ""
        if common and common <= after:
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
    """A folder sorts as its keys do: with the slash that they go on with."""
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            slash = "/" if entry.is_dir(follow_symlinks=False) else ""
            key = f"{base}{entry.name}{slash}"
            if not is_reserved(base + entry.name) and _addressable(entry.name):
                found.append((key, entry))
    return sorted(found, key=lambda pair: pair[0])


def _addressable(name: str) -> bool:
    """Whether `Buckets.locate` could be given this name."""
    return name.isprintable() or not any(
        unicodedata.category(letter).startswith("C") for letter in name
    )
