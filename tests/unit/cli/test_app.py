"""The command line as a whole: starting quickly, failing in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from wesemu import __version__
from wesemu.cli.output import ExitStatus

HEAVY = ("aiohttp", "pysam", "snakemake", "aiosqlite", "psutil", "pydantic_settings")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "wgs", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from wesemu.cli.app import execute\n"
        f"try: execute({arguments!r})\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_version_is_data(wesemu) -> None:
    ended = wesemu("--version")
    assert (ended.status, ended.out, ended.err) == (0, f"wesemu {__version__}\n", "")


def test_no_arguments_show_the_verbs(wesemu) -> None:
    ended = wesemu()
    assert "demo" in ended.out + ended.err
    assert "serve" in ended.out + ended.err


def test_a_wrong_flag_is_a_usage_error(wesemu) -> None:
    ended = wesemu("serve", "--portt", "1")
    assert ended.status == ExitStatus.USAGE
    assert "--portt" in ended.err
    assert ended.out == ""


@pytest.mark.parametrize(
    "arguments",
    [["list"], ["get", "x"], ["logs", "x"], ["cancel", "x"], ["remove", "x"]],
    ids=lambda arguments: arguments[0],
)
def test_without_a_server_one_line_says_what_to_do(wesemu, arguments: list[str]) -> None:
    ended = wesemu(*arguments, "--server", "http://127.0.0.1:1")
    assert ended.status == ExitStatus.UNREACHABLE
    assert ended.err.count("\n") == 1
    assert "wesemu serve" in ended.err
    assert ended.out == ""


def test_the_server_may_come_from_the_environment(wesemu, monkeypatch) -> None:
    monkeypatch.setenv("WESEMU_SERVER", "127.0.0.1:2")
    ended = wesemu("list")
    assert "127.0.0.1:2" in ended.err


def test_an_address_that_is_none_is_refused(wesemu) -> None:
    ended = wesemu("list", "--server", "ftp://there")
    assert ended.status == ExitStatus.UNREACHABLE
    assert "ftp://there" in ended.err


def test_an_unwritable_place_is_one_line(wesemu, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = wesemu("fixture", tmp_path / "file" / "below", "--length", 30000, "--contigs", 1)
    assert ended.status == ExitStatus.MACHINE
    assert ended.err.count("\n") == 1
    assert str(tmp_path / "file") in ended.err
