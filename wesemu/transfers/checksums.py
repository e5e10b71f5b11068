"""Checksums that servers tell of what they send, and the same ones of what arrived."""

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from wesemu.objects.crc64 import Crc64

SHA256 = "sha256"
MD5 = "md5"
CRC32 = "crc32"
CRC64 = "crc64ecma"

_HASHES = {SHA256: 32, "sha1": 20, MD5: 16}
_AMAZON = {"sha256": SHA256, "sha1": "sha1", "crc32": CRC32}
_MD5_ETAG = re.compile(r'"?([0-9a-fA-F]{32})"?')


@dataclass(frozen=True, slots=True)
class Checksum:
    """`value` has its first byte first, as it is printed."""

    algorithm: str
    value: bytes


class Tally:
    """Checksums of bytes that come one after the other; without `crc64` that one is left out."""

    def __init__(self, algorithms: Iterable[str], crc64: Crc64 | None) -> None:
        self.size = 0
        wanted = {*algorithms, SHA256}
        self._hashes: dict[str, Any] = {
            name: hashlib.new(name, usedforsecurity=False) for name in wanted & _HASHES.keys()
        }
        self._crc32: int | None = 0 if CRC32 in wanted else None
        self._crc64 = crc64 if CRC64 in wanted else None
        self._crc64_value = 0

    def update(self, chunk: bytes) -> None:
        self.size += len(chunk)
        for each in self._hashes.values():
            each.update(chunk)
        if self._crc32 is not None:
            self._crc32 = zlib.crc32(chunk, self._crc32)
        if self._crc64 is not None:
            self._crc64_value = self._crc64(chunk, self._crc64_value)

    def value(self, algorithm: str) -> bytes | None:
        """None for one that was not asked for or cannot be computed here."""
        if algorithm in self._hashes:
            return bytes(self._hashes[algorithm].digest())
        if algorithm == CRC32 and self._crc32 is not None:
            return self._crc32.to_bytes(4, "big")
        if algorithm == CRC64 and self._crc64 is not None:
            return self._crc64_value.to_bytes(8, "big")
        return None

    def differing(self, told: Iterable[Checksum]) -> Checksum | None:
        """The first of `told` that these bytes do not have."""
        for checksum in told:
            if (value := self.value(checksum.algorithm)) is not None and value != checksum.value:
                return checksum
        return None


def told_checksums(headers: Mapping[str, str], *, by_s3: bool = False) -> tuple[Checksum, ...]:
    """Of a whole representation, out of the headers of a 200; names in any case. `by_s3` says
    that they are those of an S3 service, which otherwise its request id tells.

    Content-MD5, Repr-Digest (RFC 9530), x-oss-hash-crc64ecma, x-amz-checksum-*, x-goog-hash, and
    the ETag where S3 or OSS say that it is an MD5. What cannot be read is passed over, and so are
    checksums of parts (`…-3`).
    """
    headers = {name.lower(): value.strip() for name, value in headers.items()}
    found = [_base64(MD5, headers.get("content-md5", ""))]
    for name, value in _members(headers.get("repr-digest", "")):
        if name == "sha-256":
            found.append(_base64(SHA256, value.strip(":")))
    # unpacked on its way, a file is not the one that the hash is of
    stored_so = headers.get("x-goog-stored-content-encoding", "identity") == "identity"
    for name, value in _members(headers.get("x-goog-hash", "")):
        if name == "md5" and stored_so:
            found.append(_base64(MD5, value))
    for suffix, algorithm in _AMAZON.items():
        found.append(_base64(algorithm, headers.get(f"x-amz-checksum-{suffix}", "")))
    by_s3 = by_s3 or "x-amz-request-id" in headers
    found += [_crc64(headers.get("x-oss-hash-crc64ecma", "")), _etag(headers, by_s3)]
    return tuple(checksum for checksum in found if checksum is not None)


def _members(text: str) -> Iterable[tuple[str, str]]:
    for member in text.split(","):
        name, _, value = member.strip().partition("=")
        yield name.lower(), value


def _base64(algorithm: str, text: str) -> Checksum | None:
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    right = len(value) == (4 if algorithm == CRC32 else _HASHES[algorithm])
    return Checksum(algorithm, value) if right else None


def _crc64(text: str) -> Checksum | None:
    if not re.fullmatch(r"\d{1,20}", text, re.ASCII) or int(text) >= 1 << 64:
        return None
    return Checksum(CRC64, int(text).to_bytes(8, "big"))


def _etag(headers: Mapping[str, str], by_s3: bool) -> Checksum | None:
    match = _MD5_ETAG.fullmatch(headers.get("etag", ""))
    if match is None:
        return None
    if by_s3:
        cipher = headers.get("x-amz-server-side-encryption", "")
        customer = "x-amz-server-side-encryption-customer-algorithm" in headers
        amazon = headers.get("server") == "AmazonS3"
        is_md5 = not customer and (not cipher or (cipher == "AES256" and amazon))
    else:
        is_md5 = headers.get("x-oss-object-type") == "Normal"
    return Checksum(MD5, bytes.fromhex(match[1])) if is_md5 else None
