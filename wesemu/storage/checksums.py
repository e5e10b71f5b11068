"""Checksums: CRC-64 of OSS, checksums in response headers, and running checksums of a transfer."""

import _lzma
import base64
import binascii
import ctypes
import ctypes.util
import hashlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# CRC-64 of OSS and .xz: polynomial ECMA-182, reflected, initial value and final XOR all ones.

Crc64 = Callable[[bytes, int], int]
"""Takes the next bytes and the checksum of all bytes before (0 at the start); returns the checksum
of all of them.
"""

_CHECK = (b"123456789", 0x995DC9BBDF1939FA)  # the parameter set's published check value
_POLYNOMIAL = 0xC96C5795D7870F42  # reflected: the highest bit is the constant term
_X_TO_0 = 1 << 63
_X_TO_1 = 1 << 62


def find_crc64() -> Crc64 | None:
    """Return the CRC-64 function of liblzma, or None if liblzma cannot be loaded."""
    for name in _library_names():
        try:
            function = ctypes.CDLL(name).lzma_crc64
        except (OSError, AttributeError):
            continue
        function.restype = ctypes.c_uint64
        function.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]

        def crc64(data: bytes, crc: int, call: Callable[..., int] = function) -> int:
            return call(data, len(data), crc)

        if crc64(_CHECK[0], 0) == _CHECK[1]:
            return crc64
    return None


def combine_crc64(pieces: Iterable[tuple[int, int]]) -> int:
    """Return the CRC-64 of concatenated pieces, given as (checksum, size in bytes)."""
    joined = 0
    shifts: dict[int, int] = {}
    for crc, size in pieces:
        if size not in shifts:
            shifts[size] = _power_of_x(8 * size)
        joined = _multiply(shifts[size], joined) ^ crc
    return joined


def _library_names() -> Iterator[str | None]:
    """Yield names for `ctypes.CDLL`: the module `_lzma`, then liblzma itself.

    Symbols of the libraries that a module is linked with are found through the module. Without a
    file, `_lzma` is a part of the Python program, which None stands for.
    """
    yield getattr(_lzma, "__file__", None)
    if (library := ctypes.util.find_library("lzma")) is not None:
        yield library


def _multiply(a: int, b: int) -> int:
    """Return a * b modulo the polynomial, over GF(2)."""
    product = 0
    for bit in range(63, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


def _power_of_x(exponent: int) -> int:
    power, square = _X_TO_0, _X_TO_1
    while exponent:
        if exponent & 1:
            power = _multiply(power, square)
        square = _multiply(square, square)
        exponent >>= 1
    return power


# Checksums in response headers.

SHA256 = "sha256"
MD5 = "md5"
CRC32 = "crc32"
CRC64 = "crc64ecma"

_HASHES = {SHA256: 32, "sha1": 20, MD5: 16}
_S3_ALGORITHMS = {"sha256": SHA256, "sha1": "sha1", "crc32": CRC32}
_MD5_ETAG = re.compile(r'"?([0-9a-fA-F]{32})"?')


@dataclass(frozen=True, slots=True)
class Checksum:
    """A checksum; `value` is in printing order (first byte first)."""

    algorithm: str
    value: bytes


class RunningChecksums:
    """Checksums of a stream; SHA-256 is always included.

    Without `crc64`, CRC64 is skipped.
    """

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
        """Return the checksum so far, or None if it was not requested or is unavailable."""
        if algorithm in self._hashes:
            return bytes(self._hashes[algorithm].digest())
        if algorithm == CRC32 and self._crc32 is not None:
            return self._crc32.to_bytes(4, "big")
        if algorithm == CRC64 and self._crc64 is not None:
            return self._crc64_value.to_bytes(8, "big")
        return None

    def first_mismatch(self, expected: Iterable[Checksum]) -> Checksum | None:
        """Return the first of `expected` that these bytes do not have, or None."""
        for checksum in expected:
            if (value := self.value(checksum.algorithm)) is not None and value != checksum.value:
                return checksum
        return None


def stated_checksums(headers: Mapping[str, str], *, by_s3: bool = False) -> tuple[Checksum, ...]:
    """Return the checksums that the headers of a 200 response state for the whole representation.

    Reads Content-MD5, Repr-Digest (RFC 9530), x-oss-hash-crc64ecma, x-amz-checksum-*, x-goog-hash,
    and the ETag where S3 or OSS guarantee that it is an MD5. Header names may be in any case.
    `by_s3` marks the headers of an S3 service; otherwise x-amz-request-id does. Skips unreadable
    values and checksums of parts (`…-3`).
    """
    headers = {name.lower(): value.strip() for name, value in headers.items()}
    checksums = [_base64(MD5, headers.get("content-md5", ""))]
    for name, value in _list_members(headers.get("repr-digest", "")):
        if name == "sha-256":
            checksums.append(_base64(SHA256, value.strip(":")))
    # x-goog-hash covers the stored bytes; the server may have decompressed them for this response.
    is_stored_as_sent = headers.get("x-goog-stored-content-encoding", "identity") == "identity"
    for name, value in _list_members(headers.get("x-goog-hash", "")):
        if name == "md5" and is_stored_as_sent:
            checksums.append(_base64(MD5, value))
    for suffix, algorithm in _S3_ALGORITHMS.items():
        checksums.append(_base64(algorithm, headers.get(f"x-amz-checksum-{suffix}", "")))
    by_s3 = by_s3 or "x-amz-request-id" in headers
    checksums += [_crc64(headers.get("x-oss-hash-crc64ecma", "")), _etag(headers, by_s3)]
    return tuple(checksum for checksum in checksums if checksum is not None)


def _list_members(text: str) -> Iterable[tuple[str, str]]:
    for member in text.split(","):
        name, _, value = member.strip().partition("=")
        yield name.lower(), value


def _base64(algorithm: str, text: str) -> Checksum | None:
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    has_right_size = len(value) == (4 if algorithm == CRC32 else _HASHES[algorithm])
    return Checksum(algorithm, value) if has_right_size else None


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
        is_aws = headers.get("server") == "AmazonS3"
        # AWS keeps the MD5 with SSE-S3 (AES256); SSE-KMS, SSE-C and other stores do not.
        is_md5 = not customer and (not cipher or (cipher == "AES256" and is_aws))
    else:
        is_md5 = headers.get("x-oss-object-type") == "Normal"
    return Checksum(MD5, bytes.fromhex(match[1])) if is_md5 else None
