"""The command line as a whole: quick starts, errors in one line."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.file_limit import no_descriptors

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
    ("arguments", "message"),
    [
        (["serve", "--port", "abc"], "'--port': must be a whole number, not 'abc'; see '"),
        (["list", "--limit", "0"], "'--limit': must be 1 or more, not '0'; see '"),
        (["clock", "speed", "fast"], "'SPEED': must be a number, not 'fast'; see '"),
        (["clock", "speed", "-1", "--json"], "'SPEED': must be 0.0 or more, not '-1'; see '"),
        (["clock", "speed", "--", "-1"], "'SPEED': must be 0.0 or more, not '-1'; see '"),
        (["clock", "advance", "-1h"], "'-1h' is not a duration; write 80m, 1h20m or 90s"),
        (["clock", "advance", "--jsn", "1h"], "No such option: --jsn"),
        (["submit", "a", "--type", "x"], "'--type': 'x' is not one of 'smk', 'cwl', 'wdl'; see '"),
        (["sevre"], "No such command 'sevre'. Did you mean 'serve'? See 'wesemu --help'"),
    ],
)
def test_a_wrong_value_is_one_line_in_plain_words(wesemu, arguments, message: str) -> None:
    ended = wesemu(*arguments)
    assert (ended.status, ended.err.count("\n")) == (ExitStatus.USAGE, 1)
    assert message in ended.err


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["backup", "--data"], "'--data' requires an argument"),
        (["list", "--json=1"], "'--json' does not take a value"),
    ],
    ids=["no value", "one value too many"],
)
def test_options_that_the_parser_refuses_are_named(
    wesemu, arguments: list[str], message: str
) -> None:
    ended = wesemu(*arguments)
    assert ended.status == ExitStatus.USAGE
    assert message in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["fixture", ""],
        ["submit", ""],
        ["submit", ".", "--params", ""],
        ["submit", ".", "--attach", ""],
        ["serve", "--data", ""],
        ["serve", "--seed="],
        ["serve", "--init="],
        ["serve", "--socket="],
        ["serve", "--ready-file="],
        ["serve", "--config", ""],
        ["demo", "--data", ""],
        ["config", "init", ""],
        ["backup", ""],
        ["restore", ""],
        ["outputs", "x", "--download", ""],
        ["crate", "x", "-o", ""],
        ["snapshot", "save", ""],
        ["snapshot", "load", ""],
        ["reference", "add", "x", ""],
        ["bucket", "cp", "", "oss://abc/x"],
        ["bucket", "cp", __file__, ""],
        ["bucket", "put", "", "oss://abc/x"],
        ["bucket", "get", "oss://abc/x", ""],
        ["run", "wgs", "--bucket", "b", "--output-vcf", "v.vcf", "--samples", ""],
        ["conformance", "http://127.0.0.1:1", "--junit", ""],
    ],
    ids=" ".join,
)
def test_an_empty_path_is_not_the_current_directory(
    wesemu, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = wesemu(*arguments)
    assert ended.status == ExitStatus.USAGE
    assert "an empty path" in ended.err
    assert ended.err.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("token", ["a\nb", "a\r"])
def test_a_token_that_no_header_can_have_is_refused(wesemu, token: str) -> None:
    ended = wesemu("list", "--token", token)
    assert ended.status == ExitStatus.USAGE
    assert "the token holds a control character" in ended.err


def test_a_password_in_an_address_is_not_printed(wesemu) -> None:
    ended = wesemu("list", "--server", "http://user:secret@127.0.0.1:1")
    assert ended.status == ExitStatus.UNREACHABLE
    assert "secret" not in ended.err
    ended = wesemu("list", "--server", "http://user:secret@127.0.0.1:1", "--token", "x")
    assert ended.status == ExitStatus.USAGE
    assert "secret" not in ended.err


def test_a_socket_is_named_by_its_path(wesemu) -> None:
    ended = wesemu("list", "--server", "unix:/nonexistent/socket")
    assert ended.status == ExitStatus.UNREACHABLE
    assert "no server answers at unix:/nonexistent/socket" in ended.err
    assert "write unix:PATH" in wesemu("list", "--server", "unix:").err


def test_names_that_are_not_utf8_are_refused(wesemu, tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"\xff.smk")
    file.touch()
    key = os.fsdecode(b"oss://abc/\xff")
    for arguments in (("submit", file), ("bucket", "get", key, tmp_path / "a")):
        ended = wesemu(*arguments, "--server", "http://127.0.0.1:1")
        assert ended.status == ExitStatus.USAGE
        assert "is not UTF-8" in ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("wait", "x", "--timeout"),
        ("ready", "--wait"),
        ("prune", "--older-than"),
        ("clock", "advance"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("length", ["1000001d", f"{10**20}d", f"{'9' * 400}s"])
def test_a_length_beyond_all_calendars_is_refused(
    wesemu, arguments: tuple[str, ...], length: str
) -> None:
    ended = wesemu(*arguments, length, "--server", "http://127.0.0.1:1")
    assert ended.status == ExitStatus.USAGE
    assert "is too long; write 1000000d or less" in ended.err


def run(redirection: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    command = ["sh", "-c", f'exec "$0" -m wesemu.cli "$@" {redirection}', sys.executable]
    return subprocess.run(
        [*command, *arguments], env={**os.environ, **variables}, capture_output=True, check=False
    )


def test_closed_standard_streams_change_nothing(tmp_path: Path) -> None:
    """A file that this process opens must not get the number of a closed stream."""
    (tmp_path / "in").write_text("text")
    cp = ("bucket", "cp", str(tmp_path / "in"), "oss://abc/a", "--data", str(tmp_path / "data"))
    assert run("<&- >&- 2>&-", *cp).returncode == 0
    assert (tmp_path / "data/buckets/abc/a").read_text() == "text"
    ended = run("2>&-", "bucket", "ls", "--data", str(tmp_path / "data"))
    assert (ended.returncode, ended.stdout) == (0, b"oss://abc\n")


def test_an_encoding_that_lacks_characters_escapes_them(tmp_path: Path) -> None:
    (tmp_path / "buckets/abc").mkdir(parents=True)
    (tmp_path / "buckets/abc/中ü").touch()
    flags = ("bucket", "ls", "oss://abc", "--data", str(tmp_path))
    ended = run("", *flags, PYTHONIOENCODING="latin-1")
    assert (ended.returncode, ended.stdout.split()[-1]) == (0, b"oss://abc/\\u4e2d\xfc")
    ended = run("", *flags, "--json", PYTHONIOENCODING="latin-1")
    assert json.loads(ended.stdout)[0]["location"] == "oss://abc/中ü"


def test_a_removed_current_directory_is_named(tmp_path: Path) -> None:
    command = 'mkdir gone; cd gone; rmdir ../gone; exec "$0" -m wesemu.cli config show'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitStatus.MACHINE
    assert "wesemu: the current directory has been removed; change to another one" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("limit", "arguments", "reason"),
    [
        ("-f 0", ["bucket", "cp", __file__, "out"], "'ulimit -f'"),
        ("-n 100", ["serve"], "at least 128 open files, and the limit is 100; raise it (ulimit -n"),
    ],
    ids=["file size", "open files"],
)
def test_limits_of_the_shell_are_named(
    tmp_path: Path, limit: str, arguments: list[str], reason: str
) -> None:
    command = f'ulimit {limit}; exec "$0" -B -m wesemu.cli "$@"'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitStatus.MACHINE
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_missing_file_descriptors_are_named(wesemu, tmp_path: Path) -> None:
    arguments = ("bucket", "cp", __file__, "oss://abc/", "--data", tmp_path)
    assert wesemu(*arguments).status == ExitStatus.SUCCESS
    with no_descriptors():
        done = wesemu(*arguments)
    assert done.status == ExitStatus.MACHINE
    assert "raise the limit 'ulimit -n'" in done.err
    assert done.err.count("\n") == 1


class OtherServer(http.server.BaseHTTPRequestHandler):
    """Answers all requests with `answer`, or redirects to a host that cannot be one."""

    answer = b""

    def do_GET(self) -> None:
        # unread data would reset the connection before the client has the answer
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + 2)
            self.rfile.readline()
        self.send_response(200 if self.answer else 302)
        self.send_header("Content-Length", str(len(self.answer)))
        self.send_header("Location", "http://a..b/")
        self.end_headers()
        self.wfile.write(self.answer)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *arguments: object) -> None:
        return


@pytest.fixture(scope="module")
def other_server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), OtherServer) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("answer", "arguments", "reason"),
    [
        (b'{"runs": [{"state": "BOGUS"}]}', ["list"], "answers state = 'BOGUS'"),
        (b'{"speed": "x"}', ["clock", "show"], "answers speed = 'x'"),
        (b'{"freed_bytes": "x"}', ["prune", "--older-than", "1d"], "answers freed_bytes = 'x'"),
        (b"[" * 100_000, ["info"], "something that is not a JSON object"),
        (b"[]", ["info"], "something that is not a JSON object"),
        (b"{}", ["submit", __file__], "without a run id"),
        (
            b"{}",
            [
                "run",
                "mapping",
                *["--bucket", "b", "--fastq1", "a", "--fastq2", "b", "--output-bam", "c"],
            ],
            "without the name of a job",
        ),
        (b"", ["info"], "redirects to an address that cannot be one"),
    ],
    ids=range(8),
)
def test_answers_of_another_server_are_one_line(
    wesemu, monkeypatch, other_server: str, answer: bytes, arguments: list[str], reason: str
) -> None:
    monkeypatch.setattr(OtherServer, "answer", answer)
    ended = wesemu(*arguments, "--server", other_server)
    assert ended.status in (ExitStatus.UNREACHABLE, ExitStatus.REFUSED)
    assert reason in ended.err
    assert ended.err.count("\n") == 1
    assert ended.out == ""


@pytest.mark.parametrize(
    ("runs", "flags", "note"),
    [
        (0, ["--dry-run"], "0 runs would be removed: 5 bytes\n"),
        (1, [], "1 run removed: 5 bytes\n"),
        (2, ["--keep-outputs"], "2 runs pruned: 5 bytes\n"),
    ],
)
def test_prune_counts_runs_in_words(
    wesemu, monkeypatch, other_server: str, runs: int, flags: list[str], note: str
) -> None:
    answer = json.dumps({"runs": runs, "freed_bytes": 5}).encode()
    monkeypatch.setattr(OtherServer, "answer", answer)
    ended = wesemu("prune", "--older-than", "1d", *flags, "--server", other_server)
    assert (ended.status, ended.out, ended.err) == (0, "", note)
