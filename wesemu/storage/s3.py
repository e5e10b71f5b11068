"""Remote buckets of S3, through boto3 (the extra `s3`)."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NoConnection

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


class S3Store:
    """Implements `RemoteStore`. Missing credentials come from boto3's own provider chain."""

    def __init__(self, bucket: str, settings: RemoteBucketSettings) -> None:
        session = boto3.session.Session(
            aws_access_key_id=settings.access_key_id.get_secret_value() or None,
            aws_secret_access_key=settings.access_key_secret.get_secret_value() or None,
            aws_session_token=settings.security_token.get_secret_value() or None,
            region_name=settings.region or None,
        )
        self._bucket = bucket
        self._client: Any = session.client(
            "s3",
            endpoint_url=settings.endpoint or None,
            region_name=session.region_name or "us-east-1",
            config=Config(
                signature_version=UNSIGNED if settings.anonymous else "s3v4",
                s3={"addressing_style": "path" if settings.path_style else "auto"},
                connect_timeout=10,
                read_timeout=60,
                max_pool_connections=16,
                retries={"total_max_attempts": 1},  # `with_retry` retries
                # S3-compatible stores of other vendors understand Content-MD5 only.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def head(self, key: str) -> RemoteObject | None:
        try:
            with _translated():
                response = self._client.head_object(
                    Bucket=self._bucket, Key=key, ChecksumMode="ENABLED"
                )
        except ObjectMissing:
            return None
        headers: Mapping[str, str] = response["ResponseMetadata"]["HTTPHeaders"]
        return RemoteObject(
            size=int(response["ContentLength"]),
            etag=str(response["ETag"]),
            checksums=stated_checksums(headers, by_s3=True),
            sha256=response.get("Metadata", {}).get(DIGEST),
        )

    def keys(self, prefix: str, limit: int) -> list[str]:
        items: list[str] = []
        with _translated():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=prefix
            )
            for page in pages:
                items += [str(each["Key"]) for each in page.get("Contents", ())]
                if len(items) >= limit:
                    break
        return items[:limit]

    def sign(self, key: str, seconds: int) -> str:
        with _translated():
            return str(
                self._client.generate_presigned_url(
                    "get_object", Params={"Bucket": self._bucket, "Key": key}, ExpiresIn=seconds
                )
            )

    def put(self, key: str, data: bytes, md5: bytes, sha256: str) -> None:
        with _translated():
            self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=data,
                ContentMD5=base64.b64encode(md5).decode(),
                Metadata={DIGEST: sha256},
            )

    def begin(self, key: str, sha256: str) -> str:
        with _translated():
            response = self._client.create_multipart_upload(
                Bucket=self._bucket, Key=key, Metadata={DIGEST: sha256}
            )
        return str(response["UploadId"])

    def send(self, key: str, upload: str, number: int, data: bytes, md5: bytes) -> RemotePart:
        with _translated():
            response = self._client.upload_part(
                Bucket=self._bucket,
                Key=key,
                UploadId=upload,
                PartNumber=number,
                Body=data,
                ContentMD5=base64.b64encode(md5).decode(),
            )
        return RemotePart(number, len(data), str(response["ETag"]))

    def parts(self, key: str, upload: str) -> list[RemotePart] | None:
        items: list[RemotePart] = []
        try:
            with _translated():
                pages = self._client.get_paginator("list_parts").paginate(
                    Bucket=self._bucket, Key=key, UploadId=upload
                )
                for page in pages:
                    items += [
                        RemotePart(int(each["PartNumber"]), int(each["Size"]), str(each["ETag"]))
                        for each in page.get("Parts", ())
                    ]
        except ObjectMissing:
            return None
        return items

    def complete(self, key: str, upload: str, parts: Sequence[RemotePart]) -> None:
        completed = [{"PartNumber": part.number, "ETag": part.etag} for part in parts]
        with _translated():
            self._client.complete_multipart_upload(
                Bucket=self._bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": completed}
            )

    def abort(self, key: str, upload: str) -> None:
        with _translated():
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload)


@contextmanager
def _translated() -> Iterator[None]:
    """Translate boto3's errors, without texts that may quote credentials."""
    try:
        yield
    except ClientError as error:
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        code = str(error.response.get("Error", {}).get("Code", ""))
        reason = f"answered {status}" + (f" {code}" if code and code != str(status) else "")
        raise status_error(status, reason) from None
    except (HTTPClientError, NoConnection) as error:
        raise TransientError(f"cannot be reached ({type(error).__name__})") from None
    except BotoCoreError as error:
        raise PermanentError(f"cannot be called ({type(error).__name__})") from None
