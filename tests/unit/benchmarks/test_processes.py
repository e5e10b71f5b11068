"""Disk use: hard links count once, open files without a name count too."""

import os
from pathlib import Path

from benchmarks.processes import stored_bytes


def test_hard_links_are_one_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1000)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b").hardlink_to(tmp_path / "a")
    (tmp_path / "c").write_bytes(b"y" * 10)
    assert stored_bytes(tmp_path, ()) == 1010


def test_a_file_without_a_name_counts_while_it_is_open(tmp_path: Path) -> None:
    before = stored_bytes(tmp_path, [os.getpid()])
    with (tmp_path / "gone").open("wb") as file:
        file.write(b"x" * 5000)
        file.flush()
        (tmp_path / "gone").unlink()
        assert stored_bytes(tmp_path, [os.getpid()]) == before + 5000
    assert stored_bytes(tmp_path, [os.getpid()]) == before
