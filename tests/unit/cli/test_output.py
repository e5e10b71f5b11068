"""Tables in the boxes that scripts for `ags` cut."""

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
