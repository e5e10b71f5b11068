"""`wesemu serve` as a process: start, lock of the data directory, end."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from wesemu.cli.output import ExitStatus

PATIENCE = 60


def test_the_first_line_is_a_url_that_answers(serve) -> None:
    server = serve()
    with urlopen(f"{server.url}/_wesemu/health", timeout=PATIENCE) as answer:
        assert json.load(answer) == {"status": "ok"}


def test_the_banner_names_both_apis_and_the_data(serve) -> None:
    server = serve()
    _until(lambda: "Ctrl-C" in server.stderr)
    assert f"{server.url}/ga4gh/wes/v1" in server.stderr
    assert f"{server.url}/gs/workflow" in server.stderr
    assert "data/buckets" in server.stderr
    assert f"WESEMU_SERVER={server.url}" in server.stderr


def test_the_commands_of_the_banner_work_as_written(serve, tmp_path: Path) -> None:
    """In one shell, after its `export`: they end with a job that has succeeded."""
    server = serve("--data", "the user's data")
    _until(lambda: "Ctrl-C" in server.stderr)
    following = server.stderr.partition("in another terminal:\n")[2].partition("Ctrl-C")[0]
    name = Path(sys.executable).with_name("wesemu")
    commands = f"set -e\n{following}".replace("  wesemu ", f"  {name} ")
    done = subprocess.run(
        ["bash", "-c", commands], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "the user's data/buckets/demo/calls.vcf.gz").is_file()


def test_the_ready_file_is_there_while_it_answers(serve, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    server = serve("--ready-file", ready)
    _until(ready.exists)
    assert ready.read_text() == f"{server.url}\n"
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(PATIENCE) == 0
    assert not ready.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_ends_it_with_status_0_and_leaves_no_process(serve, number) -> None:
    server = serve()
    family = psutil.Process(server.process.pid).children(recursive=True)
    server.process.send_signal(number)
    assert server.process.wait(PATIENCE) == 0
    _, alive = psutil.wait_procs(family, timeout=PATIENCE)
    assert alive == []
    assert "Traceback" not in server.stderr


def test_a_second_server_on_the_same_data_refuses(serve, wesemu) -> None:
    serve()
    second = wesemu("serve", "--port", 0, "--data", "data")
    assert second.returncode == ExitStatus.MACHINE
    assert second.stdout == ""
    assert second.stderr.count("\n") == 1
    assert "another server" in second.stderr
    assert "--data" in second.stderr


def test_the_data_is_free_again_after_a_kill(serve) -> None:
    first = serve()
    first.process.kill()
    first.process.wait(PATIENCE)
    second = serve()
    assert second.url.startswith("http://127.0.0.1:")


def test_a_host_that_others_reach_needs_insecure(wesemu, serve) -> None:
    refused = wesemu("serve", "--host", "0.0.0.0", "--port", 0)
    assert refused.returncode == ExitStatus.USAGE
    assert "--insecure" in refused.stderr
    assert serve("--host", "0.0.0.0", "--insecure").url.startswith("http://0.0.0.0:")


def test_a_taken_port_is_one_line(wesemu) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        refused = wesemu("serve", "--port", port)
    assert refused.returncode == ExitStatus.MACHINE
    assert f"127.0.0.1:{port}" in refused.stderr
    assert refused.stderr.count("\n") == 1


def _until(holds, patience: float = PATIENCE) -> None:
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


_SEES_READY = f"""#!{sys.executable}
import os, pathlib, urllib.error, urllib.request
try:
    urllib.request.urlopen(os.environ["WESEMU_SERVER"] + "/_wesemu/ready")
except urllib.error.HTTPError as error:
    pathlib.Path(__file__).with_suffix(".log").write_bytes(error.read())
"""


def test_seed_and_init_come_before_the_url(serve, tmp_path: Path) -> None:
    script = tmp_path / "init" / "see.py"
    (tmp_path / "seed" / "genes").mkdir(parents=True)
    script.parent.mkdir()
    script.write_text(_SEES_READY)
    script.chmod(0o755)
    server = serve("--seed", tmp_path / "seed", "--init", script.parent)
    assert "the scripts of the setting init are running" in script.with_suffix(".log").read_text()
    with urlopen(f"{server.url}/oss/", timeout=PATIENCE) as answer:
        assert b"<Name>genes</Name>" in answer.read()
