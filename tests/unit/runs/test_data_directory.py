"""Which folders a server accepts as its data directory; files of others stay."""

import os
import sqlite3
from pathlib import Path
from uuid import UUID

import pytest

from wesemu.errors import DataDirectoryRefused
from wesemu.runs.data_directory import DataDirectory

RUN = str(UUID(int=1, version=4))


def put(root: Path, *names: str, content: str = "mine") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def everything(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*")}


def test_a_new_and_an_empty_directory_become_ours(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "new" / "data"):
        DataDirectory(root).create()
        put(root, "notes.txt")
        DataDirectory(root).create()
        assert (root / "buckets").is_dir()


def test_a_path_that_is_too_long_for_the_index_is_refused(tmp_path: Path) -> None:
    longest = 504 - len(f"{tmp_path}//wesemu.db")
    folders = ("a" * 100 + "/") * longest
    with pytest.raises(DataDirectoryRefused, match="is 1 bytes too long for the index"):
        DataDirectory(tmp_path / f"{folders[: longest - 1]}bb").create(adopt=True)
    assert list(tmp_path.iterdir()) == []
    data = DataDirectory(tmp_path / f"{folders[: longest - 1]}b")
    data.create()
    sqlite3.connect(data.index).close()


def test_runs_behind_a_link_are_refused(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path / "data")
    data.create()
    data.runs.rename(tmp_path / "runs")
    data.runs.symlink_to(tmp_path / "runs")
    with pytest.raises(DataDirectoryRefused, match="runs is a link; move the whole"):
        data.create(adopt=True)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("thesis.tex", "thesis.tex"),
        (".git/config", ".git"),
        ("runs/240101_NB501/RunInfo.xml", "runs/240101_NB501"),
        (f"runs/{RUN}/reads.fq", f"runs/{RUN}"),
        ("runs/notes.txt", "runs/notes.txt"),
        (".restore-x/wesemu.db", ".restore-x"),
    ],
)
def test_a_directory_of_somebody_else_is_refused_and_not_touched(
    tmp_path: Path, name: str, told: str
) -> None:
    put(tmp_path, name, "buckets/genes/reads.fq")
    before = everything(tmp_path)
    with pytest.raises(DataDirectoryRefused, match=f"(?s){told}.*--adopt-data"):
        DataDirectory(tmp_path).create()
    assert everything(tmp_path) == before
    DataDirectory(tmp_path).create(adopt=True)
    DataDirectory(tmp_path).create()
    assert everything(tmp_path) > before


@pytest.mark.parametrize(
    "marks",
    [
        {"wesemu.db": "SQLite format 3\0"},
        {"wesemu.db": "damaged", "secret": "s" * 32, "server.lock": "1\n"},
    ],
)
def test_a_directory_of_an_earlier_version_still_opens(
    tmp_path: Path, marks: dict[str, str]
) -> None:
    put(tmp_path, "runs/240101_NB501/RunInfo.xml", "notes.txt")
    for name, content in marks.items():
        put(tmp_path, name, content=content)
    DataDirectory(tmp_path).create()


@pytest.mark.parametrize("name", ["secret", "wesemu.db", "server.lock"])
def test_a_name_alone_is_no_mark(tmp_path: Path, name: str) -> None:
    put(tmp_path, "runs/240101_NB501/RunInfo.xml", name)
    with pytest.raises(DataDirectoryRefused):
        DataDirectory(tmp_path).create()


def test_what_a_user_prepares_is_welcome(tmp_path: Path) -> None:
    put(tmp_path, "buckets/genes/a.fq", "references/hg38/genome.fa", "wesemu.toml")
    put(tmp_path, f"runs/{RUN}/request.json", f"runs/.removed-{RUN}/request.json")
    (tmp_path / "lost+found").mkdir()
    DataDirectory(tmp_path).create()


def test_a_file_and_a_path_that_is_not_utf8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataDirectoryRefused, match="is a file; choose a directory"):
        DataDirectory(tmp_path / "file").check()
    with pytest.raises(DataDirectoryRefused, match="is not UTF-8"):
        DataDirectory(tmp_path / os.fsdecode(b"\xff")).check()
