"""The CRC-64 of OSS."""

import crcmod
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesemu.storage.checksums import Crc64, combine_crc64, find_crc64


@pytest.fixture(scope="module")
def crc64() -> Crc64:
    found = find_crc64()
    assert found is not None, "CPython's lzma module is linked with liblzma"
    return found


def test_it_is_the_one_that_the_sdk_computes(crc64: Crc64) -> None:
    polynomial, ones = 0x142F0E1EBA9EA3693, 0xFFFFFFFFFFFFFFFF
    reference = crcmod.mkCrcFun(polynomial, initCrc=0, xorOut=ones, rev=True)
    for data in (b"", b"\0", b"123456789", bytes(range(256)) * 20):
        assert crc64(data, 0) == reference(data)


@given(pieces=st.lists(st.binary(max_size=200), max_size=6))
def test_pieces_are_joined_without_their_bytes(crc64: Crc64, pieces: list[bytes]) -> None:
    whole = crc64(b"".join(pieces), 0)
    assert combine_crc64([(crc64(piece, 0), len(piece)) for piece in pieces]) == whole
    running = 0
    for piece in pieces:
        running = crc64(piece, running)
    assert running == whole


def test_sizes_of_a_genome_are_joined_at_once() -> None:
    parts = [(number * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF, 10 << 20) for number in range(2000)]
    assert 0 <= combine_crc64(parts) < 1 << 64
