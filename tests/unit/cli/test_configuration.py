"""`--config`, `wesemu config`, and errors of settings."""

import json
import tomllib
from pathlib import Path

import pytest

from wesemu.cli.doctor import own_address
from wesemu.cli.output import ExitStatus
from wesemu.settings import Settings


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WESEMU_CONFIG", raising=False)
    return tmp_path


def test_all_wrong_settings_are_named_with_their_places(wesemu, folder, monkeypatch) -> None:
    Path("wesemu.toml").write_text("port = 99999\nunknown = 1\n[node]\ncores = -1\n")
    monkeypatch.setenv("WESEMU_CLOCK__SPEED", "-2")
    ended = wesemu("serve", "--host", "localhost")
    assert ended.status == ExitStatus.USAGE
    assert ended.err.splitlines()[0] == "wesemu: 4 settings are wrong:"
    assert [line.strip().partition(": ")[::2] for line in ended.err.splitlines()[1:]] == [
        (f"{folder}/wesemu.toml", "port: must be 65535 or less, not 99999"),
        ("WESEMU_CLOCK__SPEED", "clock.speed: must be 0.0 or more, not '-2'"),
        (f"{folder}/wesemu.toml", "node.cores: must be 0 or more, not -1"),
        (f"{folder}/wesemu.toml", "unknown: is not known; leave it out or correct its name"),
    ]


def test_a_wrong_flag_is_named(wesemu) -> None:
    ended = wesemu("serve", "--port", "70000")
    assert ended.err == "wesemu: --port: must be 65535 or less, not 70000\n"


def test_a_file_that_is_no_toml_is_named(wesemu, folder) -> None:
    Path("wesemu.toml").write_text("port = = 1\n")
    ended = wesemu("config", "show")
    assert ended.status == ExitStatus.USAGE
    assert ended.err.startswith(f"wesemu: {folder}/wesemu.toml is not TOML: ")


def changed(wesemu, *flags: str, before: tuple[str, ...] = ()) -> dict[str, tuple[str, str]]:
    ended = wesemu(*before, "config", "show", "--changed", "--json", *flags)
    assert ended.status == 0, ended.err
    return {each["key"]: (each["value"], each["from"]) for each in json.loads(ended.out)}


def test_another_file_is_read_by_flag_or_variable(wesemu, monkeypatch) -> None:
    Path("wesemu.toml").write_text("port = 1111\n")
    Path("other.toml").write_text("port = 2222\n")
    assert changed(wesemu) == {"port": ("1111", "wesemu.toml")}
    other = {"port": ("2222", "other.toml")}
    assert changed(wesemu, "--config", "other.toml") == other
    assert changed(wesemu, before=("--config", "other.toml")) == other
    assert changed(wesemu) == {"port": ("1111", "wesemu.toml")}
    monkeypatch.setenv("WESEMU_CONFIG", "other.toml")
    assert changed(wesemu) == other
    ended = wesemu("serve", "--config", "nowhere.toml")
    assert (ended.status, "--config" in ended.err) == (ExitStatus.USAGE, True)


def test_secrets_are_hidden(wesemu, monkeypatch) -> None:
    monkeypatch.setenv("WESEMU_AUTH__TOKENS", '{"very-secret": "alice"}')
    monkeypatch.setenv("WESEMU_AUTH__ADMIN_TOKEN", "very-secret")
    Path("wesemu.toml").write_text('[callbacks]\nsecret = "very-secret"\n')
    found = changed(wesemu)
    assert {value for value, _ in found.values()} == {'"…"'}
    assert set(found) == {"auth.tokens", "auth.admin_token", "callbacks.secret"}
    assert "very-secret" not in wesemu("config", "explain", "auth.admin_token").out


def test_numbers_are_shown_with_all_their_digits(wesemu, monkeypatch) -> None:
    monkeypatch.setenv("WESEMU_CLOCK__SPEED", "12345.678")
    assert " 12345.678 (WESEMU_CLOCK__SPEED)" in wesemu("config", "explain", "clock.speed").out


def test_init_writes_all_settings_as_comments(wesemu) -> None:
    assert wesemu("config", "init").status == 0
    text = Path("wesemu.toml").read_text()
    assert tomllib.loads(text) == {}
    again = wesemu("config", "init")
    assert (again.status, "exists already" in again.err) == (ExitStatus.REFUSED, True)
    # without the comment signs it has the defaults
    lines = [line[1:] for line in text.splitlines() if line.startswith("#") and line[1:2] != " "]
    lines = [line for line in lines if not line.endswith("=")]
    values = tomllib.loads("\n".join(lines[: lines.index("[remote_buckets.NAME]")]))
    assert Settings(**values) == Settings()


def test_explain_tells_everything_about_a_setting(wesemu, monkeypatch) -> None:
    monkeypatch.setenv("WESEMU_NODE__CORES", "3")
    lines = wesemu("config", "explain", "node.cores").out.splitlines()
    assert lines[0].startswith("node.cores: Cores for all runs together")
    assert [line.split(maxsplit=1) for line in lines[1:]] == [
        ["values", "whole number from 0"],
        ["default", "0"],
        ["now", "3 (WESEMU_NODE__CORES)"],
        ["variable", "WESEMU_NODE__CORES"],
    ]
    assert "node.memory_mb:" in wesemu("config", "explain", "node").out
    ended = wesemu("config", "explain", "cores")
    assert (ended.status, "there is node.cores" in ended.err) == (ExitStatus.USAGE, True)
    assert "did you mean node.cores?" in wesemu("config", "explain", "node.crores").err


def test_a_misspelled_setting_is_named_with_the_right_one(wesemu) -> None:
    Path("wesemu.toml").write_text("[node]\ncrores = 3\n")
    assert "node.crores: is not known; did you mean node.cores?" in wesemu("config", "show").err


def test_without_changed_settings_a_line_says_so(wesemu) -> None:
    ended = wesemu("config", "show", "--changed")
    assert (ended.status, ended.out) == (0, "")
    assert "all settings have their defaults" in ended.err
    assert json.loads(wesemu("config", "show", "--changed", "--json").out) == []


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({}, "http://127.0.0.1:8070"),
        ({"host": "0.0.0.0", "port": 9000}, "http://127.0.0.1:9000"),
        ({"host": "::"}, "http://[::1]:8070"),
        ({"host": "192.0.2.7"}, "http://192.0.2.7:8070"),
        ({"host": "fd00::7"}, "http://[fd00::7]:8070"),
        ({"host": "localhost"}, "http://localhost:8070"),
        ({"socket": "/run/w.sock", "port": 9000}, "unix:/run/w.sock"),
    ],
)
def test_the_address_of_a_server_with_these_settings(settings, address: str) -> None:
    assert own_address(Settings(**settings)) == address


def test_ready_asks_where_the_settings_say(wesemu, monkeypatch) -> None:
    monkeypatch.delenv("WESEMU_SERVER", raising=False)
    Path("wesemu.toml").write_text("port = 1\n")
    assert "at http://127.0.0.1:1;" in wesemu("ready").err
    monkeypatch.setenv("WESEMU_PORT", "2")
    ended = wesemu("ready")
    assert (ended.status, "at http://127.0.0.1:2;" in ended.err) == (ExitStatus.UNREACHABLE, True)


def test_an_empty_variable_is_not_the_current_directory(wesemu, monkeypatch) -> None:
    names = ("DATA", "SEED", "INIT", "SOCKET", "ENGINE__READABLE", "INPUTS__FILE_ROOTS")
    for name in names:
        monkeypatch.setenv(f"WESEMU_{name}", '[""]' if "__" in name else "")
    ended = wesemu("config", "show")
    assert ended.status == ExitStatus.USAGE
    assert ended.err.count("an empty path; write '.'") == len(names)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfep\0", "is not TOML: it is not UTF-8, from byte 0 on"),
        (b"x = " + b"[" * 100_000, "is not TOML: it is nested too deeply"),
        (b"#" * (1 << 20) + b"\n", "is not TOML: it is larger than 1 MiB"),
        (b'host = "a..b"', "host: must be an address or a name"),
        (b'host = ""', "host: must be an address or a name"),
        (b'host = "[::1]"', "host: must be an address or a name without a port"),
        (b'host = "127.0.0.1:80"', "host: must be an address or a name without a port"),
        (b'host = "http://localhost"', "host: must be an address or a name without a port"),
        (b'data = "\\u0000"', "data: a path cannot contain NUL"),
        (b'[tools]\nbwa = "\\u0000"', "the command of bwa cannot contain NUL"),
        (b'[auth]\ntokens = { "" = "alice" }', "auth.tokens: must have 1 characters or more"),
        (b'[auth]\nags_keys = { a = "" }', "auth.ags_keys.a: must have 1 characters or more"),
        (b"[retention]\ndays = 1e308", "retention.days: must be 1000000.0 or less"),
        (b"[inputs]\ncache_gib = 1e308", "inputs.cache_gib: must be 1000000000.0 or less"),
        (b"[node]\ngpus = 1025", "node.gpus: must be"),
    ],
    ids=range(15),
)
def test_files_and_values_that_cannot_be_used_are_named(
    wesemu, folder: Path, content: bytes, reason: str
) -> None:
    (folder / "wesemu.toml").write_bytes(content)
    ended = wesemu("config", "show")
    assert ended.status == ExitStatus.USAGE
    assert f"{folder}/wesemu.toml" in ended.err
    assert reason in ended.err
    assert ended.err.count("\n") == 1


def test_a_folder_in_place_of_the_file_is_not_ignored(wesemu, folder: Path) -> None:
    """docker makes one for a file to mount that does not exist."""
    (folder / "wesemu.toml").mkdir()
    ended = wesemu("config", "show")
    assert ended.status == ExitStatus.USAGE
    assert "wesemu.toml is not TOML: it is a folder, or not an ordinary file" in ended.err


def test_a_byte_order_mark_is_ignored(wesemu, folder: Path) -> None:
    (folder / "wesemu.toml").write_bytes(b"\xef\xbb\xbfport = 1111\r\n")
    assert changed(wesemu) == {"port": ("1111", "wesemu.toml")}
