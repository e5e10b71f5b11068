"""Checksums in response headers of the services."""

import base64
import hashlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesemu.storage.checksums import CRC64, Checksum, RunningChecksums, find_crc64, stated_checksums

DATA = b"123456789"
MD5 = hashlib.md5(DATA)
S3 = {"x-amz-request-id": "1"}


def b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-MD5": b64(MD5.digest())},
        {"Repr-Digest": f"sha-512=:AA==:, sha-256=:{b64(hashlib.sha256(DATA).digest())}:"},
        {"x-oss-hash-crc64ecma": "11051210869376104954"},
        {"X-Amz-Checksum-SHA256": b64(hashlib.sha256(DATA).digest())},
        {"x-amz-checksum-sha1": b64(hashlib.sha1(DATA).digest())},
        {"x-amz-checksum-crc32": b64(zlib.crc32(DATA).to_bytes(4, "big"))},
        {"x-goog-hash": f"crc32c=AAAAAA==, md5={b64(MD5.digest())}"},
        {"ETag": f'"{MD5.hexdigest()}"', **S3},
        {"ETag": f'"{MD5.hexdigest()}"', **S3, "Server": "AmazonS3",
         "x-amz-server-side-encryption": "AES256"},
        {"ETag": f'"{MD5.hexdigest().upper()}"', "x-oss-object-type": "Normal"},
    ],
)  # fmt: skip
def test_the_checksums_of_headers_are_parsed(headers: dict[str, str]) -> None:
    (told,) = stated_checksums(headers)
    tally = RunningChecksums([told.algorithm], find_crc64())
    for letter in DATA:
        tally.update(bytes([letter]))
    assert tally.value(told.algorithm) == told.value
    assert tally.first_mismatch([told]) is None
    tally.update(b"0")
    assert tally.first_mismatch([told]) == told


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"ETag": f'"{MD5.hexdigest()}"'},  # of any web server: it may be anything
        {"ETag": f'"{MD5.hexdigest()}-2"', **S3},
        {"ETag": f'"{MD5.hexdigest()}"', **S3, "x-amz-server-side-encryption": "aws:kms"},
        {"ETag": f'"{MD5.hexdigest()}"', "x-oss-object-type": "Multipart"},
        {"x-amz-checksum-sha256": f"{b64(bytes(32))}-3"},
        {"x-amz-checksum-crc64nvme": b64(bytes(8))},
        {"Content-MD5": "not base64"},
        {"x-oss-hash-crc64ecma": str(1 << 64)},
        {"x-goog-hash": f"md5={b64(MD5.digest())}", "x-goog-stored-content-encoding": "gzip"},
    ],
)
def test_what_is_no_checksum_of_the_whole_is_passed_over(headers: dict[str, str]) -> None:
    assert stated_checksums(headers) == ()


def test_without_liblzma_a_crc64_is_not_checked() -> None:
    tally = RunningChecksums([CRC64], None)
    tally.update(DATA)
    assert tally.first_mismatch([Checksum(CRC64, bytes(8))]) is None


@given(
    st.dictionaries(
        st.sampled_from(["content-md5", "repr-digest", "etag", "x-oss-hash-crc64ecma",
                         "x-amz-checksum-crc32", "x-goog-hash", "x-amz-request-id"]),
        st.text(max_size=40),
    )
)  # fmt: skip
def test_no_header_breaks_it(headers: dict[str, str]) -> None:
    stated_checksums(headers)
