"""What a user's workflow cannot reach: attacks on a real server that fail to get through."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from e2e.conftest import Server

from wesemu.engines.landlock import NETWORK_SINCE, SIGNALS_SINCE, version

pytestmark = pytest.mark.skipif(
    version() < SIGNALS_SINCE, reason="needs Landlock of Linux 6.12 or newer"
)

ATTACKS = {
    "database": "cat {data}/wesemu.db",
    "listing": "ls {data}/runs",
    "another_run": "cat {data}/runs/{victim}/request.json",
    "bucket": "cat {data}/buckets/private/reads.fq",
    "environment": "cat /proc/{server}/environ",
    "memory": "head -c 1 /proc/{server}/mem",
    "descriptors": "ls /proc/{server}/cwd/",
    "kill": "kill -9 {server}",
    "outside": "touch {elsewhere}/owned",
    "own_events": "echo '{{}}' >> {run}/events.jsonl",
    "own_exit_code": "echo 0 > {run}/exit_code",
    "own_request": "echo '{{}}' > {run}/request.json",
    "lock": "rm {run}/run.lock",
    "disk": "head -c 1 $(ls /dev/vd? /dev/sd? /dev/nvme?n1 2>/dev/null | head -1; echo /dev/none)",
    "link": "ln {data}/wesemu.db stolen && cat stolen",
    "symbolic_link": "ln -s {data}/wesemu.db linked && cat linked",
    "mount": "mount --bind {data} /mnt",
}

SNAKEFILE = """
import os, subprocess

NAMES = sorted(config["attacks"])
COMMANDS = {name: text.format(run=os.path.dirname(os.getcwd()), **config["places"])
            for name, text in config["attacks"].items()}

def attempt(name):
    done = subprocess.run(["bash", "-c", COMMANDS[name]], capture_output=True)
    return f"{name} {'FAILED' if done.returncode else 'SUCCEEDED'}\\n"

with open("parsed.txt", "w") as file:
    file.writelines(attempt(name) for name in NAMES)

rule all:
    input: "shell.txt", "run.txt", "parsed.txt", "worked.txt"

rule shell:
    output: "shell.txt"
    params:
        commands=lambda _: "; ".join(
            f"({text}) >/dev/null 2>&1 && echo {name} SUCCEEDED || echo {name} FAILED"
            for name, text in COMMANDS.items()
        ),
    shell: "( {params.commands} ) > {output}"

rule in_python:
    output: "run.txt"
    run:
        with open(output[0], "w") as file:
            file.writelines(attempt(name) for name in NAMES)

rule honest:
    output: "worked.txt"
    shell: "mkfifo f; (echo through > f &) ; cat f $TMPDIR/../config.yaml > {output}; "
           "mktemp; python3 -c 'import json'; cat <(echo substituted) >> {output}; rm f"
"""


def post(url: str, token: str, workflow: str, params: Mapping[str, object]) -> str:
    """Send a Snakefile; the run's id."""
    boundary = "x" * 30
    fields = {
        "workflow_type": "SMK",
        "workflow_type_version": "9",
        "workflow_url": "Snakefile",
        "workflow_params": json.dumps(params),
    }
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    parts.append(
        f"--{boundary}\r\nContent-Disposition: form-data; "
        f'name="workflow_attachment"; filename="Snakefile"\r\n\r\n{workflow}\r\n'
    )
    request = urllib.request.Request(
        f"{url}/ga4gh/wes/v1/runs",
        data=("".join(parts) + f"--{boundary}--\r\n").encode(),
        headers={
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Authorization": f"Bearer {token}",
        },
    )
    with urllib.request.urlopen(request) as answer:
        return str(json.load(answer)["run_id"])


def wait(url: str, token: str, run_id: str) -> dict[str, Any]:
    """The run log once the run has ended."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        request = urllib.request.Request(
            f"{url}/1.1.0/ga4gh/wes/v1/runs/{run_id}", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request) as answer:
            log: dict[str, Any] = json.load(answer)
        if log["state"] not in ("QUEUED", "INITIALIZING", "RUNNING"):
            return log
        time.sleep(0.1)
    raise AssertionError(f"the run has not ended: {log}")


def work(run_id: str, name: str) -> str:
    return (Path("data/runs") / run_id / "work" / name).read_text()


@pytest.fixture
def guarded(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Server]:
    """A server with two owners who may send workflows, and a secret in its environment."""
    monkeypatch.setenv("WESEMU_AUTH__TOKENS", json.dumps({"a": "alice", "b": "bob"}))
    monkeypatch.setenv("WESEMU_WORKFLOWS__OWNERS", '["alice", "bob"]')
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "swordfish")
    return serve


def attack(server: Server, victim: str, tmp_path: Path) -> str:
    """Send the attacks as bob; the run's id once it has ended."""
    places = {
        "data": str(tmp_path / "data"),
        "victim": victim,
        "server": server.process.pid,
        "elsewhere": str(tmp_path),
    }
    run_id = post(server.url, "b", SNAKEFILE, {"attacks": ATTACKS, "places": places})
    log = wait(server.url, "b", run_id)
    stderr = (Path("data/runs") / run_id / "stderr.log").read_text()
    assert log["state"] == "COMPLETE", stderr
    return run_id


@pytest.mark.parametrize("mode", ["warm", "cli"])
def test_attacks_of_a_snakefile_do_not_get_through(
    guarded: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("WESEMU_ENGINE__SNAKEMAKE", mode)
    private = tmp_path / "data" / "buckets" / "private"
    private.mkdir(parents=True)
    (private / "reads.fq").write_text("secret")
    server = guarded()
    victim = post(server.url, "a", "rule all:\n output: 'o'\n shell: 'env > {output}'\n", {})
    assert wait(server.url, "a", victim)["state"] == "COMPLETE"
    assert "swordfish" not in work(victim, "o")
    assert "WESEMU_AUTH" not in work(victim, "o")

    run_id = attack(server, victim, tmp_path)

    expected = sorted(f"{name} FAILED" for name in ATTACKS)
    for file in ("parsed.txt", "shell.txt", "run.txt"):
        assert sorted(work(run_id, file).splitlines()) == expected, file
    assert work(run_id, "worked.txt").startswith("through\n")
    assert "substituted" in work(run_id, "worked.txt")
    assert server.process.poll() is None
    assert not (tmp_path / "owned").exists()


def test_the_attacks_get_through_without_the_sandbox(
    guarded: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the test above would notice if they did."""
    monkeypatch.setenv("WESEMU_ENGINE__SANDBOX", "none")
    server = guarded()
    victim = post(server.url, "a", "rule all:\n output: 'o'\n shell: 'echo > {output}'\n", {})
    wait(server.url, "a", victim)
    harmless = {name: ATTACKS[name] for name in ("database", "another_run", "outside")}
    places = {
        "data": str(tmp_path / "data"),
        "victim": victim,
        "server": server.process.pid,
        "elsewhere": str(tmp_path),
    }
    run_id = post(server.url, "b", SNAKEFILE, {"attacks": harmless, "places": places})
    assert wait(server.url, "b", run_id)["state"] == "COMPLETE"
    succeeded = sorted(f"{name} SUCCEEDED" for name in harmless)
    assert sorted(work(run_id, "run.txt").splitlines()) == succeeded


@pytest.mark.skipif(version() < NETWORK_SINCE, reason="needs Landlock of Linux 6.7 or newer")
def test_without_network_a_workflow_does_not_reach_the_controls(
    guarded: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WESEMU_ENGINE__NETWORK", "false")
    server = guarded()
    workflow = f"""
import urllib.request
rule all:
    output: "answer.txt"
    run:
        try:
            urllib.request.urlopen("{server.url}/_wesemu/health", timeout=5)
            answer = "reached"
        except OSError as error:
            answer = "not reached"
        open(output[0], "w").write(answer)
"""
    run_id = post(server.url, "b", workflow, {})
    assert wait(server.url, "b", run_id)["state"] == "COMPLETE"
    assert work(run_id, "answer.txt") == "not reached"
    with urllib.request.urlopen(f"{server.url}/_wesemu/info") as answer:
        assert json.load(answer)["sandbox"].endswith("no network")


def test_owners_who_are_not_listed_run_bundled_pipelines_only(
    guarded: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WESEMU_WORKFLOWS__OWNERS", "auto")
    server = guarded()
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(server.url, "a", "rule all:\n output: 'o'\n shell: 'echo > {output}'\n", {})
    assert refused.value.code == 403
    assert "workflows.owners" in json.load(refused.value)["msg"]
    assert [path.name for path in Path("data/runs").iterdir()] == []
