"""Files of parameters and sample sheets, as editors, spreadsheets and other programs write them."""

import os
from pathlib import Path

import pytest

from wesemu.cli import submit
from wesemu.cli.output import CommandRefused
from wesemu.cli.samples import SheetLane, read_sheet
from wesemu.cli.submit import parameters


def written(folder: Path, content: bytes) -> Path:
    file = folder / "file"
    file.write_bytes(content)
    return file


@pytest.mark.parametrize(
    ("content", "values"),
    [
        (b"", {}),
        (b"# only a comment\n", {}),
        (b"\xef\xbb\xbfa: 1\r\nb: x\r\n", {"a": 1, "b": "x"}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (b'{"a": 1e-5, "b": 1E3}', {"a": 1e-5, "b": 1000.0}),  # text in YAML 1.1
        (b"{a: [1, 2]}", {"a": [1, 2]}),
        (b"a: &x [1]\nb: *x\n", {"a": [1], "b": [1]}),
        (
            b"a: {b: &b {<<: &c {depth: 1}, depth: 2}}\nd: {<<: *b, y: 3}\n",
            {"a": {"b": {"depth": 2}}, "d": {"depth": 2, "y": 3}},
        ),
        (b"".join(b"k%d: 1\n" % i for i in range(2000)), {f"k{i}": 1 for i in range(2000)}),
    ],
    ids=range(9),
)
def test_json_and_yaml_are_read(tmp_path: Path, content: bytes, values: object) -> None:
    assert parameters(written(tmp_path, content), []) == values


BOMB = b"a: &a [x,x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 10)) for i in range(8)
)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[]", "has no names and values"),
        (b"false", "has no names and values"),
        (b"0", "has no names and values"),
        (b"\xff\xfea\0", "it is not UTF-8"),
        (b'{"a": 1, "a": 2}', "the key 'a' is given twice"),
        (b"a: 1\na: 2\n", "the key 'a' is given twice"),
        (b"b: &b {a: 1}\nc: {<<: *b, x: 1, x: 2}\n", "the key 'x' is given twice"),
        (b'1: x\n"1": y\n', "the key '1' is given twice"),
        (b'{"a": NaN}', "NaN is not a finite number"),
        (b'{"a": 1e999}', "Out of range float"),
        (b"a: .inf\n", "Out of range float"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b"- " * 5000, "it is nested too deeply"),
        (b"a: &x [*x]\n", "Circular reference"),
    ],
    ids=range(14),
)
def test_what_cannot_be_parameters_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(CommandRefused, match=reason) as refused:
        parameters(written(tmp_path, content), [])
    assert str(tmp_path / "file") in refused.value.message


@pytest.mark.parametrize(
    ("content", "reason"),
    [(BOMB, "its values take more than 1 MiB of JSON"), (b" " * (2 << 20), "it is larger than")],
    ids=["anchors", "blanks"],
)
def test_large_parameters_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, reason: str
) -> None:
    monkeypatch.setattr(submit, "_LARGEST_PARAMETERS", 1 << 20)
    with pytest.raises(CommandRefused, match=reason):
        parameters(written(tmp_path, content), [])


def test_a_parameter_that_is_no_json_is_text() -> None:
    given = ["a=NaN", "b=-Infinity", "c=1e-5", "d=x"]
    assert parameters(None, given) == {"a": "NaN", "b": "-Infinity", "c": 1e-5, "d": "x"}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_spreadsheets_may_separate_with_semicolons_and_tabs(tmp_path: Path, separator: str) -> None:
    rows = ("sample,fastq_1,fastq_2,,", "s1,a,b,,", ",,,,")
    text = "".join(f"{row}\r\n".replace(",", separator) for row in rows)
    file = written(tmp_path, text.encode("utf-8-sig"))
    assert read_sheet(file) == {"s1": [SheetLane("a", "b")]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"sample,fastq_1,fastq_2,sample\ns1,a,b,s2\n", "the column sample is there twice"),
        (b"sample,fastq_1,fastq_2,\ns1,a,b,c\n", "line 2: it has more cells than the header"),
        ("sample\tfastq_1".encode("utf-16"), "it is not UTF-8 text; save it as a CSV file"),
    ],
    ids=["column twice", "nameless column", "UTF-16"],
)
def test_sheets_that_cannot_be_understood_are_refused(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    with pytest.raises(CommandRefused, match=reason):
        read_sheet(written(tmp_path, content))


def test_a_sheet_may_come_through_a_pipe() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"sample,fastq_1,fastq_2\ns1,a,b\n")
    os.close(writer)
    assert read_sheet(Path(f"/dev/fd/{reader}")) == {"s1": [SheetLane("a", "b")]}
    os.close(reader)


def test_a_folder_is_no_sheet(tmp_path: Path) -> None:
    with pytest.raises(CommandRefused, match="it is a folder"):
        read_sheet(tmp_path)
