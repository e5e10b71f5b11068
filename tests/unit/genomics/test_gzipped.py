"""gzip data is read completely or refused, by isal and by zlib."""

import gzip
import random
from io import BufferedReader, BytesIO
from pathlib import Path

import pytest

from wesemu.genomics import fastq_file
from wesemu.genomics.fastq_file import GZIP_FAULTS, TrailingBytes, open_gzip

TEXT = bytes(random.Random(1).choices(b"ACGT\n", k=700_000))
PACKED = gzip.compress(TEXT, 1, mtime=0)


@pytest.fixture(autouse=True, params=["isal", "zlib"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "zlib":
        monkeypatch.setattr(fastq_file, "_new_member", fastq_file._ZlibDecompressor)
    else:
        pytest.importorskip("isal")


def read(data: bytes) -> bytes:
    with open_gzip(BufferedReader(BytesIO(data))) as file:
        return file.read()


def test_members_and_padding_are_one_text(tmp_path: Path) -> None:
    empty = gzip.compress(b"", mtime=0)
    data = empty + PACKED + bytes(200_000) + PACKED + empty + b"\0"
    assert read(data) == TEXT + TEXT
    path = tmp_path / "a.gz"
    path.write_bytes(data)
    with open_gzip(path) as file:
        assert file.read(10) + file.read() == TEXT + TEXT


@pytest.mark.parametrize("tail", [b"x", b"\x1f", b"\x1fx", b"garbage" * 50_000])
def test_other_bytes_are_reported_with_their_place_after_all_data(tail: bytes) -> None:
    for text, data in ((TEXT, PACKED), (b"", gzip.compress(b"", mtime=0))):
        seen: list[bytes] = []
        with (
            open_gzip(BufferedReader(BytesIO(data + b"\0" + tail))) as file,
            pytest.raises(TrailingBytes) as caught,
        ):
            seen.extend(iter(lambda file=file: file.read1(1 << 17), b""))
        assert b"".join(seen) == text
        assert caught.value.offset == len(data) + 1


@pytest.mark.parametrize("left", [2, 9, 11, 5000, len(PACKED) - 8, len(PACKED) - 1])
def test_cut_data_is_an_error(left: int) -> None:
    for before in (b"", PACKED):
        with pytest.raises(EOFError):
            read(before + PACKED[:left])


@pytest.mark.parametrize("place", [3, 200, len(PACKED) // 2, len(PACKED) - 6, len(PACKED) - 2])
def test_damaged_data_is_an_error(place: int) -> None:
    data = bytearray(PACKED)
    data[place] ^= 0x10
    with pytest.raises(GZIP_FAULTS):
        read(bytes(data))


def test_data_that_is_not_gzip_is_an_error() -> None:
    with pytest.raises(TrailingBytes):
        read(b"\0\0" + PACKED)


def test_data_that_expands_a_thousandfold_is_read_in_pieces() -> None:
    bomb = gzip.compress(bytes(64 << 20), mtime=0)
    with open_gzip(BufferedReader(BytesIO(bomb))) as file:
        sizes = [len(block) for block in iter(lambda: file.read1(1 << 17), b"")]
    assert sum(sizes) == 64 << 20
    assert max(sizes) <= 1 << 17
