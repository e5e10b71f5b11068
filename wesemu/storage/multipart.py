"""Multipart uploads: parts arrive in any order and are joined on completion.

An upload is a folder `.wesemu/uploads/<id>/` in its bucket. `upload.json` holds its key, each part
is a file `<number>.<MD5>.<CRC-64>`, so uploads survive a restart of the server. Synchronous, as the
object store.
"""

import hashlib
import json
import re
import shutil
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wesemu.errors import ObjectNotFound, PartMissing, PartsUnordered, PartTooSmall, UploadNotFound
from wesemu.runs.data_directory import IdSource
from wesemu.storage.buckets import UPLOADS
from wesemu.storage.checksums import combine_crc64
from wesemu.storage.object_records import ObjectInfo, ObjectRecord
from wesemu.storage.objects import ObjectStore
from wesemu.storage.upload_file import Digests, UploadFile

PART_MINIMUM = 100 << 10
"""The minimum size in bytes of all parts but the last (OSS, "Limits": 100 KB to 5 GB)."""

PART_NUMBERS = range(1, 10_001)
_UPLOAD_ID = re.compile(r"[0-9A-F]{32}")
_DESCRIPTION = "upload.json"


@dataclass(frozen=True, slots=True)
class UploadPart:
    number: int
    etag: str
    crc64: int | None
    size: int
    modified: datetime
    path: Path


@dataclass(frozen=True, slots=True)
class MultipartUpload:
    key: str
    id: str
    started: datetime


class MultipartUploads:
    """Manages the multipart uploads of the store's buckets."""

    def __init__(self, store: ObjectStore, ids: IdSource) -> None:
        self._store = store
        self._ids = ids
        self._locks: weakref.WeakValueDictionary[str, threading.Lock] = (
            weakref.WeakValueDictionary()
        )
        self._locks_lock = threading.Lock()

    def begin(self, bucket: str, key: str, record: ObjectRecord, *, overwrite: bool = True) -> str:
        """Start an upload and return its id; `record` becomes the object's.

        Raise as `ObjectStore.check`. `overwrite` says nothing about `complete`.
        """
        self._store.check(bucket, key, overwrite=overwrite)
        upload_id = self._ids.upload_id()
        folder = self._store.folder(bucket) / UPLOADS / upload_id
        folder.mkdir(parents=True)
        description = folder / "upload.new"
        description.write_text(json.dumps({"key": key, "record": asdict(record)}))
        description.replace(folder / _DESCRIPTION)  # from here on the upload exists
        return upload_id

    def put_part(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        number: int,
        upload: UploadFile,
        digests: Digests,
    ) -> UploadPart:
        """Store a finished file as a part. It replaces an earlier part with this number.

        Raise UploadNotFound.
        """
        with self._upload_lock(upload_id):
            folder = self._folder(bucket, key, upload_id)
            crc = "-" if digests.crc64 is None else str(digests.crc64)
            path = folder / f"{number:05}.{digests.etag}.{crc}"
            for earlier in folder.glob(f"{number:05}.*"):
                earlier.unlink()
            upload.path.replace(path)
            return _part(path)

    def parts(self, bucket: str, key: str, upload_id: str) -> list[UploadPart]:
        """Return the parts, sorted by number. Raise UploadNotFound."""
        with self._upload_lock(upload_id):
            return _parts(self._folder(bucket, key, upload_id))

    def complete(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        named: Sequence[tuple[int, str]] | None,
        *,
        overwrite: bool = True,
    ) -> ObjectInfo:
        """Join the `named` parts (number, ETag), or all parts, to the object. An upload without
        parts becomes an empty object.

        Idempotent, for clients that lost the first response. Raise UploadNotFound, PartsUnordered,
        PartMissing, PartTooSmall, ObjectExists.
        """
        with self._upload_lock(upload_id):
            try:
                folder = self._folder(bucket, key, upload_id)
            except UploadNotFound:
                return self._completed(bucket, key, upload_id)
            parts = _select_parts(_parts(folder), named)
            record = replace(
                ObjectRecord(**_description(folder)["record"]),
                kind="Multipart",
                etag=_multipart_etag(parts),
                crc64=_multipart_crc(parts),
                upload=upload_id,
            )
            with self._store.new_upload(bucket) as upload:
                for part in parts:
                    upload.append(part.path)
                upload.sync()
                info = self._store.put(bucket, key, upload, record, overwrite=overwrite)
            _remove(folder)  # only now: the object is durable
        return info

    def abort(self, bucket: str, key: str, upload_id: str) -> None:
        """Delete the upload and its parts. Raise UploadNotFound, InvalidRequest, BucketNotFound."""
        with self._upload_lock(upload_id):
            _remove(self._folder(bucket, key, upload_id))

    def all(self, bucket: str) -> list[MultipartUpload]:
        """Return the uploads, sorted by key and id. Raise InvalidRequest, BucketNotFound."""
        folder = self._store.folder(bucket) / UPLOADS
        uploads = []
        for path in folder.glob(f"*/{_DESCRIPTION}"):
            with suppress(FileNotFoundError, KeyError):  # completed or aborted meanwhile
                key = _description(path.parent)["key"]
                uploads.append(MultipartUpload(key, path.parent.name, _modified(path)))
        return sorted(uploads, key=lambda upload: (upload.key, upload.id))

    def _folder(self, bucket: str, key: str, upload_id: str) -> Path:
        folder = self._store.folder(bucket) / UPLOADS / upload_id
        if _UPLOAD_ID.fullmatch(upload_id) and _description(folder).get("key") == key:
            return folder
        raise UploadNotFound(
            f"there is no upload {upload_id[:80]!r} of {key!r}; it may have been aborted or "
            "completed already"
        )

    def _completed(self, bucket: str, key: str, upload_id: str) -> ObjectInfo:
        with suppress(ObjectNotFound):
            info = self._store.find(bucket, key)
            if upload_id and info.record.upload == upload_id:
                return info
        raise UploadNotFound(f"there is no upload {upload_id[:80]!r} of {key!r}")

    def _upload_lock(self, upload_id: str) -> threading.Lock:
        """Return the lock that serialises changes of an upload."""
        with self._locks_lock:
            return self._locks.setdefault(upload_id, threading.Lock())


def _select_parts(
    parts: Sequence[UploadPart], named: Sequence[tuple[int, str]] | None
) -> Sequence[UploadPart]:
    if not parts and named is None:
        raise PartMissing("no part was uploaded")
    if named is not None:
        if parts and not named:  # without parts, the client wants an empty object
            raise PartMissing(f"no part is named; parts uploaded: {len(parts)}")
        numbers = [number for number, _ in named]
        if numbers != sorted(set(numbers)):
            raise PartsUnordered("name the parts by ascending numbers, each once")
        present = {(part.number, part.etag): part for part in parts}
        missing = [name for name in named if name not in present]
        if missing:
            number, etag = missing[0]
            raise PartMissing(f"part {number} with the ETag {etag[:80]!r} was not uploaded")
        parts = [present[name] for name in named]
    for part in parts[:-1]:
        if part.size < PART_MINIMUM:
            raise PartTooSmall(
                f"part {part.number} has {part.size} bytes; all but the last need {PART_MINIMUM}"
            )
    return parts


def is_incomplete(folder: Path) -> bool:
    """Return True for the folder of an upload that a killed server was making or removing."""
    return bool(_UPLOAD_ID.fullmatch(folder.name)) and not (folder / _DESCRIPTION).exists()


def _remove(folder: Path) -> None:
    """Remove an upload. The description goes first: an upload that lacks parts must not be joined
    again after a kill."""
    (folder / _DESCRIPTION).unlink()
    shutil.rmtree(folder)


def _description(folder: Path) -> dict[str, Any]:
    """Return the content of `upload.json`, empty if there is no upload."""
    try:
        content = json.loads((folder / _DESCRIPTION).read_bytes())
    except FileNotFoundError:
        return {}
    return dict(content)


def _parts(folder: Path) -> list[UploadPart]:
    return [_part(path) for path in sorted(folder.glob("[0-9]*.*.*"))]


def _part(path: Path) -> UploadPart:
    number, etag, crc = path.name.split(".")
    crc64 = None if crc == "-" else int(crc)
    return UploadPart(int(number), etag, crc64, path.stat().st_size, _modified(path), path)


def _multipart_etag(parts: Sequence[UploadPart]) -> str:
    """Return the MD5 of the parts' ETags as text (S3 would take their bytes)."""
    digests = "".join(part.etag for part in parts).encode()
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest().upper()}-{len(parts)}"


def _multipart_crc(parts: Sequence[UploadPart]) -> int | None:
    known = [(part.crc64, part.size) for part in parts if part.crc64 is not None]
    return combine_crc64(known) if len(known) == len(parts) else None


def _modified(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)
