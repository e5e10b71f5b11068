"""Checksums that servers tell of what they send, and the same ones of what arrived."""

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

# CRC-64 as OSS tells it: ECMA-182, reflected, all ones before and after; .xz files have it too.


Crc64 = Callable[[bytes, int], int]
"""The checksum of all bytes so far, from the next ones and the checksum of those before (0)."""

_CHECK = (b"123456789", 0x995DC9BBDF1939FA)  # the parameter set's published check value
_POLYNOMIAL = 0xC96C5795D7870F42  # reflected: the highest bit is the constant term
_ONE = 1 << 63
_X = 1 << 62


def find_crc64() -> Crc64 | None:
    """liblzma's function; None where no liblzma can be reached."""
    for name in _libraries():
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
    """The checksum of pieces one after the other, from each one's checksum and size in bytes."""
    joined = 0
    shifts: dict[int, int] = {}
    for crc, size in pieces:
        if size not in shifts:
            shifts[size] = _power_of_x(8 * size)
        joined = _multiply(shifts[size], joined) ^ crc
    return joined


def _libraries() -> Iterator[str | None]:
    """Searching a module finds what it is linked with; None is the program itself."""
    yield getattr(_lzma, "__file__", None)
    if (library := ctypes.util.find_library("lzma")) is not None:
        yield library


def _multiply(a: int, b: int) -> int:
    """a * b modulo the polynomial, over GF(2)."""
    product = 0
    for place in range(63, -1, -1):
        if a >> place & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


def _power_of_x(exponent: int) -> int:
    power, square = _ONE, _X
    while exponent:
        if exponent & 1:
            power = _multiply(power, square)
        square = _multiply(square, square)
        exponent >>= 1
    return power


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


class RunningChecksums:
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

    def first_mismatch(self, told: Iterable[Checksum]) -> Checksum | None:
        """The first of `told` that these bytes do not have."""
        for checksum in told:
            if (value := self.value(checksum.algorithm)) is not None and value != checksum.value:
                return checksum
        return None


def stated_checksums(headers: Mapping[str, str], *, by_s3: bool = False) -> tuple[Checksum, ...]:
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
