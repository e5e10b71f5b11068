"""A bucket of Alibaba's OSS, by oss2 (the extra `oss`)."""

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import oss2
from oss2.credentials import EnvironmentVariableCredentialsProvider, StaticCredentialsProvider

from wesemu.errors import PermanentError, TransientError
from wesemu.storage.checksums import stated_checksums
from wesemu.storage.remote import DIGEST, RETRIED, BucketAccess, RemoteObject, RemotePart

_NOT_FOUND = 404
_PAGE = 1000
_TIMEOUT_SECONDS = 60
_METADATA = f"x-oss-meta-{DIGEST}"


class OssStore:
    """Implements `RemoteStore`. Credentials that are not given come from the environment:
    OSS_ACCESS_KEY_ID, OSS_ACCESS_KEY_SECRET, OSS_SESSION_TOKEN. With a region requests are signed
    by version 4, else by version 1."""

    def __init__(self, access: BucketAccess) -> None:
        self._bucket: Any = oss2.Bucket(
            _auth(access),
            access.endpoint or f"https://oss-{access.region or 'cn-hangzhou'}.aliyuncs.com",
            access.bucket,
            session=oss2.Session(pool_size=16),
            connect_timeout=_TIMEOUT_SECONDS,
            enable_crc=False,  # the whole is checked by `Uploader`, the parts by their MD5
            region=access.region or None,
            is_path_style=access.path_style,
        )

    def head(self, key: str) -> RemoteObject | None:
        try:
            with _translated():
                answer = self._bucket.head_object(key)
        except _Missing:
            return None
        return RemoteObject(
            size=int(answer.content_length),
            etag=f'"{answer.etag}"',
            checksums=stated_checksums(answer.headers),
            sha256=answer.headers.get(_METADATA),
        )

    def keys(self, prefix: str, limit: int) -> list[str]:
        found: list[str] = []
        token = ""
        with _translated():
            while len(found) < limit:
                page = self._bucket.list_objects_v2(
                    prefix=prefix, continuation_token=token, max_keys=_PAGE
                )
                found += [str(each.key) for each in page.object_list]
                if not page.is_truncated:
                    break
                token = page.next_continuation_token
        return found[:limit]

    def sign(self, key: str, seconds: int) -> str:
        with _translated():
            return str(self._bucket.sign_url("GET", key, seconds, slash_safe=True))

    def put(self, key: str, data: bytes, md5: bytes, sha256: str) -> None:
        headers = {"Content-MD5": base64.b64encode(md5).decode(), _METADATA: sha256}
        with _translated():
            self._bucket.put_object(key, data, headers=headers)

    def begin(self, key: str, sha256: str) -> str:
        with _translated():
            answer = self._bucket.init_multipart_upload(key, headers={_METADATA: sha256})
        return str(answer.upload_id)

    def send(self, key: str, upload: str, number: int, data: bytes, md5: bytes) -> RemotePart:
        headers = {"Content-MD5": base64.b64encode(md5).decode()}
        with _translated():
            answer = self._bucket.upload_part(key, upload, number, data, headers=headers)
        return RemotePart(number, len(data), str(answer.etag))

    def parts(self, key: str, upload: str) -> list[RemotePart] | None:
        found: list[RemotePart] = []
        marker = ""
        try:
            with _translated():
                while True:
                    page = self._bucket.list_parts(key, upload, marker=marker, max_parts=_PAGE)
                    found += [
                        RemotePart(each.part_number, each.size, each.etag) for each in page.parts
                    ]
                    if not page.is_truncated:
                        return found
                    marker = page.next_marker
        except _Missing:
            return None

    def complete(self, key: str, upload: str, parts: Sequence[RemotePart]) -> None:
        told = [oss2.models.PartInfo(part.number, part.etag, part.size) for part in parts]
        with _translated():
            self._bucket.complete_multipart_upload(key, upload, told)

    def abort(self, key: str, upload: str) -> None:
        with _translated():
            self._bucket.abort_multipart_upload(key, upload)


def _auth(access: BucketAccess) -> Any:
    if access.anonymous:
        return oss2.AnonymousAuth()
    if access.key_id:
        provider: Any = StaticCredentialsProvider(access.key_id, access.secret, access.token)
    else:
        provider = EnvironmentVariableCredentialsProvider()
    return (oss2.ProviderAuthV4 if access.region else oss2.ProviderAuth)(provider)


class _Missing(PermanentError):
    """A 404."""


@contextmanager
def _translated() -> Iterator[None]:
    """oss2's errors as this package's; their own texts quote signatures and key ids."""
    try:
        yield
    except oss2.exceptions.RequestError:
        raise TransientError("cannot be reached") from None
    except oss2.exceptions.InconsistentError:
        raise TransientError("has another checksum than what was sent") from None
    except oss2.exceptions.ClientError:
        raise PermanentError(
            "cannot be asked; are OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET set?"
        ) from None
    except oss2.exceptions.OssError as error:
        told = f"answered {error.status} {error.code}".strip()
        if error.status in RETRIED:
            raise TransientError(told) from None
        raise (_Missing if error.status == _NOT_FOUND else PermanentError)(told) from None
