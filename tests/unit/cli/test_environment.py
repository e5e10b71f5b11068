"""`wesemu env` prints lines that a shell can evaluate."""

import subprocess

import pytest

from wesemu.settings import Settings, unknown_variables


def evaluated(text: str) -> dict[str, str]:
    """The variables that a shell has once it has evaluated `text`."""
    done = subprocess.run(
        ["sh", "-c", f"{text}\nenv -0"], env={}, capture_output=True, text=True, check=True
    )
    pairs = (entry.partition("=") for entry in done.stdout.split("\0") if entry)
    return {name: value for name, _, value in pairs if name not in ("PWD", "SHLVL", "_", "OLDPWD")}


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_ags_tells_the_sdks_where_and_who(wesemu, monkeypatch) -> None:
    monkeypatch.setenv("WESEMU_AUTH__AGS_KEYS", """{"LTAIa": "it's $HOME", "LTAIb": "x"}""")
    ended = wesemu("env", "ags", "--server", "127.0.0.1:1234/")
    assert (ended.status, ended.err) == (0, "")
    assert evaluated(ended.out) == {
        "WESEMU_SERVER": "http://127.0.0.1:1234",
        "ALIBABA_CLOUD_ACCESS_KEY_ID": "LTAIa",
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "it's $HOME",
        "ALIYUN_ACCESS_KEY_ID": "LTAIa",
        "ALIYUN_ACCESS_KEY_SECRET": "it's $HOME",
        "accessKeyID": "LTAIa",
        "accessKeySecret": "it's $HOME",
        "AGS_ENDPOINT": "127.0.0.1:1234",
        "AGS_PROTOCOL": "http",
        "OSS_ACCESS_KEY_ID": "LTAIa",
        "OSS_ACCESS_KEY_SECRET": "it's $HOME",
        "OSS_ENDPOINT": "http://127.0.0.1:1234",
    }


def test_without_keys_any_key_is_good(wesemu) -> None:
    told = evaluated(wesemu("env", "ags").out)
    assert (told["OSS_ACCESS_KEY_ID"], told["AGS_ENDPOINT"]) == ("any", "127.0.0.1:8070")


def test_wes_tells_the_token_where_there_is_one(wesemu, monkeypatch) -> None:
    server = {"WESEMU_SERVER": "http://127.0.0.1:8070"}
    there = server | {"WES_API_HOST": "127.0.0.1:8070", "WES_API_PROTO": "http"}
    assert evaluated(wesemu("env", "wes").out) == there
    monkeypatch.setenv("WESEMU_AUTH__TOKENS", """{"of the settings": "alice"}""")
    for flags, token in (((), "of the settings"), (("--token", "shown"), "shown")):
        told = evaluated(wesemu("env", "wes", *flags).out)
        assert told == there | {"WES_API_AUTH": token, "WESEMU_TOKEN": token}


def test_the_variables_of_clients_are_known_to_the_settings(monkeypatch) -> None:
    for name in ("WESEMU_TOKEN", "WESEMU_SERVER", "WESEMU_TOKENS"):
        monkeypatch.setenv(name, "x")
    assert unknown_variables() == ["WESEMU_TOKENS"]


def test_the_variables_of_clients_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """WESEMU_SERVER, which the banner of `serve` tells to export, is not the table `server`."""
    monkeypatch.setenv("WESEMU_SERVER", "http://127.0.0.1:1")
    monkeypatch.setenv("WESEMU_TOKEN", "secret")
    monkeypatch.setenv("WESEMU_SERVER__PUBLIC_URL", "https://wes.example.org")
    assert Settings().server.public_url == "https://wes.example.org"
    assert unknown_variables() == []


@pytest.mark.parametrize("verb", ["ags", "wes"])
def test_a_unix_socket_is_refused(wesemu, verb: str) -> None:
    ended = wesemu("env", verb, "--server", "unix:/tmp/socket")
    assert (ended.status, ended.out) == (2, "")
    assert "cannot use the unix socket unix:/tmp/socket" in ended.err


@pytest.mark.parametrize("verb", ["ags", "wes"])
def test_an_address_with_a_path_is_refused(wesemu, verb: str) -> None:
    ended = wesemu("env", verb, "--server", "https://example.org/lab")
    assert (ended.status, ended.out) == (2, "")
    assert "/lab" in ended.err
    assert wesemu("env", verb, "--server", "https://example.org/ga4gh/wes/v1").status == 0
