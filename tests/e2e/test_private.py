"""Sockets, logs and folders: who can use them, and what the log contains."""

import json
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from e2e.conftest import Ended, Server

SNAKEFILE = "rule all:\n    output: 'o.txt'\n    shell: 'echo hi > {output}'\n"


def modes(folder: Path) -> dict[str, str]:
    """What others may do with the files and folders below, where that is anything."""
    found = [folder, *folder.rglob("*")]
    return {
        str(path): oct(stat.S_IMODE(path.lstat().st_mode))
        for path in found
        if not path.is_symlink() and path.lstat().st_mode & 0o077
    }


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def curl(*arguments: str | Path) -> str:
    return subprocess.run(
        ["curl", "-sS", "--fail-with-body", *arguments], capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture
def door() -> Iterator[Path]:
    """Return the path of a socket. It is short, as a socket's has to be, unlike pytest's."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder) / "door.sock"


@contextmanager
def snakefile() -> Iterator[list[str]]:
    """curl's flags for a run of a Snakefile."""
    Path("Snakefile").write_text(SNAKEFILE)
    yield [
        *("-F", "workflow_url=Snakefile", "-F", "workflow_type=SMK"),
        *("-F", "workflow_type_version=9", "-F", "workflow_attachment=@Snakefile"),
    ]


@pytest.mark.skipif(not Path("/usr/bin/curl").exists(), reason="needs curl")
def test_a_unix_socket_serves_its_user_alone(
    serve: Callable[..., Server], wesemu: Callable[..., Ended], tmp_path: Path, door: Path
) -> None:
    server = serve("--socket", door)
    assert server.url == f"unix:{door}"
    assert stat.S_IMODE(door.stat().st_mode) == 0o600
    with snakefile() as flags:
        sent = curl("--unix-socket", door, "http://localhost/ga4gh/wes/v1/runs", *flags)
    run_id = json.loads(sent)["run_id"]
    listed = wesemu("list", "--json", "--server", server.url)
    assert listed.returncode == 0, listed.stderr
    logs = wesemu("logs", "-f", run_id, "--server", server.url)
    assert logs.returncode == 0, logs.stderr

    theirs = (".snakemake", "source-cache")  # whose modes Snakemake sets itself
    found = modes(tmp_path / "data")
    assert [path for path in found if not any(name in path for name in theirs)] == []

    assert wesemu("serve", "--socket", door, "--data", "other").returncode == 5
    server.process.terminate()
    assert server.process.wait(timeout=60) == 0
    assert not door.exists()


@pytest.mark.skipif(not Path("/usr/bin/curl").exists(), reason="needs curl")
def test_a_new_token_is_asked_for_and_the_log_tells_the_life_of_a_run(
    serve: Callable[..., Server],
    wesemu: Callable[..., Ended],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = serve("--new-token")
    wait_for(lambda: "Ctrl-C stops" in server.stderr)
    token = next(
        line.partition("=")[2] for line in server.stderr.splitlines() if "WESEMU_TOKEN=" in line
    )
    refused = wesemu("list", "--server", server.url)
    assert refused.returncode == 4
    with snakefile() as flags:
        sent = curl(
            f"{server.url}/ga4gh/wes/v1/runs", "-H", f"Authorization: Bearer {token}", *flags
        )
    run_id = json.loads(sent)["run_id"]
    monkeypatch.setenv("WESEMU_TOKEN", token)
    assert wesemu("logs", "-f", run_id, "--server", server.url).returncode == 0

    wait_for(lambda: "run ended" in server.stderr)
    lines = [line for line in server.stderr.splitlines() if run_id in line]
    assert ["run accepted" in lines[0], "run started" in lines[1], "run ended" in lines[2]] == [
        True,
        True,
        True,
    ]
    assert "state=COMPLETE" in lines[2]
    assert any("credentials refused" in x and "127.0.0.1" in x for x in server.stderr.splitlines())
    assert token not in "".join(
        line for line in server.stderr.splitlines() if "WESEMU_" not in line
    )


def test_json_logs_are_one_object_a_line(
    serve: Callable[..., Server], wesemu: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WESEMU_LOG_FORMAT", "json")
    monkeypatch.setenv("WESEMU_AUTH__TOKENS", '{"t": "alice"}')
    monkeypatch.setenv("WESEMU_AUTH__ADMIN_TOKEN", "admin")
    server = serve()
    assert wesemu("list", "--server", server.url).returncode == 4
    wait_for(lambda: server.stderr.endswith("\n"))
    events = [json.loads(line) for line in server.stderr.splitlines()]
    assert [event["event"] for event in events].count("credentials refused") >= 1
    refusals = [event for event in events if event["event"] == "credentials refused"]
    assert {"address", "path", "reason", "timestamp", "level"} <= set(refusals[0])


def test_an_existing_directory_keeps_its_mode_and_warns(serve: Callable[..., Server]) -> None:
    Path("data").mkdir(mode=0o755)
    Path("data").chmod(0o755)
    server = serve()
    assert stat.S_IMODE(Path("data").stat().st_mode) == 0o755
    wait_for(lambda: "can read the data directory" in server.stderr)
