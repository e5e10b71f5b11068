"""Tables in the format that scripts for `ags` parse."""

import pytest

from wesemu.cli.output import print_note, print_table


def test_a_table_has_boxes_and_padding(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("JOB NAME", "STATUS"), [("wgs-gpu-tvltf", "Running"), ("m", "")])
    assert capsys.readouterr().out.splitlines() == [
        "+---------------+---------+",
        "| JOB NAME      | STATUS  |",
        "+---------------+---------+",
        "| wgs-gpu-tvltf | Running |",
        "| m             |         |",
        "+---------------+---------+",
    ]


def test_a_table_without_rows_keeps_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A", "B"), [])
    assert capsys.readouterr().out.splitlines()[1] == "| A | B |"


def test_talk_is_not_data(capsys: pytest.CaptureFixture[str]) -> None:
    print_note("hello")
    assert capsys.readouterr() == ("", "hello\n")


WIDE = ("name", "a word and another " * 6, "/a/very/long/path/" * 5)


def test_a_wide_table_wraps_its_widest_cells(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_table(("A", "B", "C"), [WIDE])
    lines = capsys.readouterr().out.splitlines()
    assert {len(line) for line in lines} == {80}
    columns = [line.strip("|").split("|") for line in lines[3:-1]]
    assert "".join(cells[2].strip() for cells in columns) == WIDE[2]
    assert " ".join(cells[1].strip() for cells in columns).split() == WIDE[1].split()
    print_table(("A", "B", "C"), [WIDE], fit=False)
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_too_many_columns_become_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_table([f"COLUMN {n}" for n in range(8)], [[f"value of {n}" for n in range(8)]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "| COLUMN 0 | value of 0 |"
    assert len(lines) == 10
