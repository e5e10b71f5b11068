"""Remote buckets of Alibaba OSS, through oss2 (the extra `oss`)."""

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import oss2
from oss2.credentials import EnvironmentVariableCredentialsProvider, StaticCredentialsProvider

from wesemu.errors import PermanentError, TransientError
from wesemu.storage.checksums import stated_checksums
from wesemu.storage.remote import (
    DIGEST,
    ObjectMissing,
    RemoteBucketSettings,
    RemoteObject,
    RemotePart,
    status_error,
)

_PAGE = 1000
_TIMEOUT_SECONDS = 60
_METADATA = f"x-oss-meta-{DIGEST}"


class OssStore:
    """Implements `RemoteStore`.

    Missing credentials are read from OSS_ACCESS_KEY_ID, OSS_ACCESS_KEY_SECRET and
    OSS_SESSION_TOKEN. Requests are signed by version 4 if the region is known, else by version 1.
    """

    def __init__(self, bucket: str, settings: RemoteBucketSettings) -> None:
        self._bucket: Any = oss2.Bucket(
            _auth(settings),
            settings.endpoint or f"https://oss-{settings.region or 'cn-hangzhou'}.aliyuncs.com",
            bucket,
            session=oss2.Session(pool_size=16),
            connect_timeout=_TIMEOUT_SECONDS,
            enable_crc=False,  # `Uploader` checks the object, Content-MD5 each part
            region=settings.region or None,
            is_path_style=settings.path_style,
        )

    def head(self, key: str) -> RemoteObject | None:
        try:
            with _translated():
                response = self._bucket.head_object(key)
        except ObjectMissing:
            return None
        return RemoteObject(
            size=int(response.content_length),
            etag=f'"{response.etag}"',
            checksums=stated_checksums(response.headers),
            sha256=response.headers.get(_METADATA),
        )

    def keys(self, prefix: str, limit: int) -> list[str]:
        items: list[str] = []
        token = ""
        with _translated():
            while len(items) < limit:
                page = self._bucket.list_objects_v2(
                    prefix=prefix, continuation_token=token, max_keys=_PAGE
                )
                items += [str(each.key) for each in page.object_list]
                if not page.is_truncated:
                    break
                token = page.next_continuation_token
        return items[:limit]

    def sign(self, key: str, seconds: int) -> str:
        with _translated():
            return str(self._bucket.sign_url("GET", key, seconds, slash_safe=True))

    def put(self, key: str, data: bytes, md5: bytes, sha256: str) -> None:
        headers = {"Content-MD5": base64.b64encode(md5).decode(), _METADATA: sha256}
        with _translated():
            self._bucket.put_object(key, data, headers=headers)

    def begin(self, key: str, sha256: str) -> str:
        with _translated():
            response = self._bucket.init_multipart_upload(key, headers={_METADATA: sha256})
        return str(response.upload_id)

    def send(self, key: str, upload: str, number: int, data: bytes, md5: bytes) -> RemotePart:
        headers = {"Content-MD5": base64.b64encode(md5).decode()}
        with _translated():
            response = self._bucket.upload_part(key, upload, number, data, headers=headers)
        return RemotePart(number, len(data), str(response.etag))

    def parts(self, key: str, upload: str) -> list[RemotePart] | None:
        items: list[RemotePart] = []
        marker = ""
        try:
            with _translated():
                while True:
                    page = self._bucket.list_parts(key, upload, marker=marker, max_parts=_PAGE)
                    items += [
                        RemotePart(each.part_number, each.size, each.etag) for each in page.parts
                    ]
                    if not page.is_truncated:
                        return items
                    marker = page.next_marker
        except ObjectMissing:
            return None

    def complete(self, key: str, upload: str, parts: Sequence[RemotePart]) -> None:
        completed = [oss2.models.PartInfo(part.number, part.etag, part.size) for part in parts]
        with _translated():
            self._bucket.complete_multipart_upload(key, upload, completed)

    def abort(self, key: str, upload: str) -> None:
        with _translated():
            self._bucket.abort_multipart_upload(key, upload)


def _auth(settings: RemoteBucketSettings) -> Any:
    if settings.anonymous:
        return oss2.AnonymousAuth()
    if key_id := settings.access_key_id.get_secret_value():
        provider: Any = StaticCredentialsProvider(
            key_id,
            settings.access_key_secret.get_secret_value(),
            settings.security_token.get_secret_value(),
        )
    else:
        provider = EnvironmentVariableCredentialsProvider()
    return (oss2.ProviderAuthV4 if settings.region else oss2.ProviderAuth)(provider)


@contextmanager
def _translated() -> Iterator[None]:
    """Translate oss2's errors, whose texts quote signatures and key ids."""
    try:
        yield
    except oss2.exceptions.RequestError:
        raise TransientError("cannot be reached") from None
    except oss2.exceptions.InconsistentError:
        raise TransientError("has another checksum than what was sent") from None
    except oss2.exceptions.ClientError:
        raise PermanentError(
            "cannot be called; check that OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET are set"
        ) from None
    except oss2.exceptions.OssError as error:
        reason = f"answered {error.status} {error.code}".strip()
        raise status_error(error.status, reason) from None
