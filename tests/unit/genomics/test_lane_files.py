"""A file may be in one lane only, under any name."""

import os
from pathlib import Path

import pytest

from wesemu.errors import InvalidRequest
from wesemu.genomics.read_groups import NamedFile, check_files_differ, file_identity


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a" / "s_1.fq"
    path.parent.mkdir()
    path.write_text("reads")
    return path


def lane(number: int, *paths: Path | str) -> list[NamedFile]:
    return [
        NamedFile(f"reads.{number}.{mate}", str(path), file_identity(path))
        for mate, path in zip(("first", "second"), paths, strict=False)
    ]


def test_copies_are_files_of_their_own(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.fq"
    copy.write_bytes(file.read_bytes())
    check_files_differ([lane(0, file), lane(1, copy)])


@pytest.mark.parametrize("mate", ["first", "second"])
@pytest.mark.parametrize("how", ["same", "dots", "slashes", "symlink", "hardlink", "folder"])
def test_other_names_of_a_file_are_known(file: Path, tmp_path: Path, how: str, mate: str) -> None:
    other = tmp_path / "other.fq"
    match how:
        case "same":
            again: Path | str = file
        case "dots":
            again = f"{tmp_path}/a/../a/./s_1.fq"
        case "slashes":
            again = f"{tmp_path}//a//s_1.fq"
        case "symlink":
            other.symlink_to(file)
            again = other
        case "hardlink":
            os.link(file, other)
            again = other
        case _:
            (tmp_path / "b").symlink_to(tmp_path / "a")
            again = tmp_path / "b" / "s_1.fq"
    second = [tmp_path / "x", again] if mate == "second" else [again]
    with pytest.raises(InvalidRequest) as caught:
        check_files_differ([lane(0, file, tmp_path / "y"), lane(1, *second)])
    assert f"reads.0.first and reads.1.{mate} are the same file" in caught.value.message
    assert caught.value.field == f"reads.1.{mate}"


def test_missing_files_are_distinguished_by_their_path(tmp_path: Path) -> None:
    check_files_differ([lane(0, tmp_path / "a"), lane(1, tmp_path / "b")])
    with pytest.raises(InvalidRequest):
        check_files_differ([lane(0, tmp_path / "a"), lane(1, f"{tmp_path}/./a")])
