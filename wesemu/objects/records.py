"""What a file alone cannot tell of an object: its digests, headers and metadata.

One small JSON file an object, below `.wesemu/records/` in its bucket. A record names the size, time
and inode of its file. Once somebody else has written the file, the record does not count any more,
and the object is what it would be had its file been made by hand. A bucket that was copied as a
whole has new inodes: its records are recognized by another inode of their own folder, and only
sizes and times are compared then.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

from wesemu.objects.hidden import RECORDS

_WITH_INODES = 5

Kind = Literal["Normal", "Multipart", "Appendable"]


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """`etag` is the upper-case MD5 of the object (or of its parts' MD5, `-` and their number).

    `headers` are those that are sent back as they came (Content-Type, …), `metadata` the user's
    own (names without prefix); `upload` is the id of the multipart upload that made the object.
    """

    kind: Kind = "Normal"
    etag: str | None = None
    crc64: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    upload: str = ""


class Records:
    """The records of the bucket in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / RECORDS

    def load(self, key: str, stat: os.stat_result) -> ObjectRecord | None:
        """None where there is no record, or one of a file that is no more."""
        try:
            content = json.loads(self._path(key).read_bytes())
        except (OSError, ValueError):
            return None
        if not self._fits(content.pop("file", None), key, stat):
            return None
        known = {field.name for field in fields(ObjectRecord)}
        return ObjectRecord(**{name: value for name, value in content.items() if name in known})

    def save(self, key: str, stat: os.stat_result, record: ObjectRecord) -> None:
        """Not made durable: an object whose record is lost is one that was made by hand."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        file = [*_file(key, stat), stat.st_ino, self._folder.stat().st_ino]
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps({"file": file, **asdict(record)}))
        temporary.replace(path)

    def has(self, key: str) -> bool:
        """Whether there is a record, be it of this file or an earlier one."""
        return self._path(key).exists()

    def remove(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def _fits(self, told: object, key: str, stat: os.stat_result) -> bool:
        """Records of earlier versions have no inodes."""
        if not isinstance(told, list) or told[:3] != _file(key, stat):
            return False
        if key.endswith("/") or len(told) < _WITH_INODES:
            return True
        inode, home = told[3:5]
        return bool(inode == stat.st_ino or home != self._folder.stat().st_ino)

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self._folder / name[:2] / f"{name[2:]}.json"


def _file(key: str, stat: os.stat_result) -> list[str | int]:
    """What tells a file from a later one; a folder's size and time change with what is in it."""
    return [key, 0, 0] if key.endswith("/") else [key, stat.st_size, stat.st_mtime_ns]
