"""Attacks of workflows on a real server: the sandbox stops them."""

import json
import os
import shutil
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from e2e.conftest import Server

from wesemu.engines.isolation import (
    NETWORK_SINCE,
    SIGNALS_SINCE,
    landlock_version,
    namespace_allowed,
)

pytestmark = pytest.mark.skipif(
    landlock_version() < SIGNALS_SINCE, reason="needs Landlock of Linux 6.12 or newer"
)

ATTACKS = {
    "database": "cat {data}/wesemu.db",
    "listing": "ls {data}/runs | grep {victim}",
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


def post(
    url: str,
    token: str,
    workflow: str,
    params: Mapping[str, object],
    language: tuple[str, str] = ("SMK", "9"),
) -> str:
    """Send a Snakefile, or a document of another language and version; the run's id."""
    return str(send(url, token, workflow, params, language)["run_id"])


def send(
    url: str,
    token: str,
    workflow: str,
    params: Mapping[str, object],
    language: tuple[str, str] = ("SMK", "9"),
    engine: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The answer."""
    boundary = "x" * 30
    fields = {
        "workflow_type": language[0],
        "workflow_type_version": language[1],
        "workflow_url": "Snakefile",
        "workflow_params": json.dumps(params),
        "workflow_engine_parameters": json.dumps(engine or {}),
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
        found: dict[str, Any] = json.load(answer)
        return found


def wait(url: str, token: str, run_id: str) -> dict[str, Any]:
    """The run log once the run has ended."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        request = urllib.request.Request(
            f"{url}/1.1.0/ga4gh/wes/v1/runs/{run_id}", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request) as answer:
            log: dict[str, Any] = json.load(answer)
        if log["state"] not in ("QUEUED", "INITIALIZING", "RUNNING", "CANCELING"):
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


def choose(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """The setting for Landlock around an engine of that mode, or for bubblewrap."""
    if mode == "bubblewrap":
        if shutil.which("bwrap") is None:
            pytest.skip("needs bwrap")
        monkeypatch.setenv("WESEMU_ENGINE__SANDBOX", mode)
    else:
        monkeypatch.setenv("WESEMU_ENGINE__SNAKEMAKE", mode)


@pytest.mark.parametrize("mode", ["warm", "cli", "bubblewrap"])
def test_attacks_of_a_snakefile_do_not_get_through(
    guarded: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    choose(monkeypatch, mode)
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


@pytest.mark.skipif(landlock_version() < NETWORK_SINCE, reason="needs Landlock of Linux 6.7")
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
    with refused.value as response:
        assert "workflows.owners" in json.load(response)["msg"]
    assert [path.name for path in Path("data/runs").iterdir()] == []


TEMPORARY_SNAKEFILE = """
rule all:
    input: "shell.txt", "run.txt"
rule write:
    output: touch("written")
    shell: "test ! -e /tmp/{config[name]} && echo kept > /tmp/{config[name]} && "
           "cp /tmp/{config[name]} /var/tmp/{config[name]}.2"
rule in_shell:
    input: "written"
    output: "shell.txt"
    shell: "cat /tmp/{config[name]} /var/tmp/{config[name]}.2 > {output}"
rule in_python:
    input: "written"
    output: "run.txt"
    run:
        name = config["name"]
        with open(output[0], "w") as file:
            file.write(open(f"/tmp/{name}").read() + open(f"/var/tmp/{name}.2").read())
"""

TEMPORARY_CWL = """
cwlVersion: v1.2
class: Workflow
requirements: {InlineJavascriptRequirement: {}}
inputs: {name: string}
outputs:
  result: {type: File, outputSource: read/result}
steps:
  write:
    run:
      class: CommandLineTool
      inputs: {name: {type: string, inputBinding: {position: 1}}}
      baseCommand: [bash, -c, 'test ! -e "/tmp/$0" && echo kept | tee "/tmp/$0" "/var/tmp/$0.2"']
      stdout: written
      outputs: {written: stdout}
    in: {name: name}
    out: [written]
  read:
    run:
      class: CommandLineTool
      inputs:
        name: {type: string, inputBinding: {position: 1}}
        written: File
      baseCommand: [bash, -c, 'cat "/tmp/$0" "/var/tmp/$0.2"']
      stdout: result.txt
      outputs: {result: stdout}
    in: {name: name, written: write/written}
    out: [result]
"""

TEMPORARY_WDL = """
version 1.0
task write {
  input { String name }
  command <<< test ! -e "/tmp/~{name}" && echo kept | tee "/tmp/~{name}" "/var/tmp/~{name}.2" >>>
  output { String written = read_string(stdout()) }
}
task read {
  input { String name String written }
  command <<< cat "/tmp/~{name}" "/var/tmp/~{name}.2" > result.txt >>>
  output { File result = "result.txt" }
}
workflow main {
  input { String name }
  call write { input: name = name }
  call read { input: name = name, written = write.written }
  output { File result = read.result }
}
"""


@pytest.fixture
def private_temporary() -> None:
    if not namespace_allowed("mounts"):
        pytest.skip("needs mount namespaces, which this user may not have")


def absent_from_temporary(name: str) -> bool:
    return not any(os.path.lexists(f"{folder}/{name}") for folder in ("/tmp", "/var/tmp"))


@pytest.mark.usefixtures("private_temporary")
@pytest.mark.parametrize("mode", ["warm", "cli", "bubblewrap"])
def test_a_run_has_a_temporary_folder_of_its_own(
    guarded: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    choose(monkeypatch, mode)
    server = guarded()
    name = f"wesemu-test-{uuid.uuid4()}"
    for owner in ("a", "b"):  # the second finds nothing of the first
        run_id = post(server.url, owner, TEMPORARY_SNAKEFILE, {"name": name})
        log = wait(server.url, owner, run_id)
        assert log["state"] == "COMPLETE", log["run_log"]
        assert work(run_id, "shell.txt") == work(run_id, "run.txt") == "kept\nkept\n"
        assert absent_from_temporary(name)
        assert absent_from_temporary(f"{name}.2")


@pytest.mark.usefixtures("private_temporary")
@pytest.mark.parametrize(
    ("language", "document", "params"),
    [
        pytest.param(("CWL", "v1.2"), TEMPORARY_CWL, "name", id="cwl"),
        pytest.param(("WDL", "1.0"), TEMPORARY_WDL, "main.name", id="wdl"),
    ],
)
def test_runs_of_other_languages_have_one_too(
    guarded: Callable[..., Server], language: tuple[str, str], document: str, params: str
) -> None:
    pytest.importorskip({"CWL": "cwltool", "WDL": "WDL"}[language[0]])
    server = guarded()
    name = f"wesemu-test-{uuid.uuid4()}"
    for owner in ("a", "b"):
        run_id = post(server.url, owner, document, {params: name}, language)
        log = wait(server.url, owner, run_id)
        assert log["state"] == "COMPLETE", log["run_log"]
        (result,) = (Path("data/runs") / run_id / "outputs").rglob("result.txt")
        assert result.read_text() == "kept\nkept\n"
        assert absent_from_temporary(name)


@pytest.mark.parametrize("mode", ["warm", "bubblewrap"])
def test_a_dry_run_is_in_the_sandbox(
    guarded: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """What the Snakefile finds while it is planned is the name of a rule."""
    choose(monkeypatch, mode)
    server = guarded()
    workflow = f"""
import os
try:
    open("{tmp_path}/data/wesemu.db").read(1)
    found = "reached"
except OSError:
    found = "safe"
rule:
    name: found
    output: "o"
    shell: "echo > {{output}}"
"""
    answer = send(server.url, "b", workflow, {}, engine={"dry_run": "true"})
    assert answer["wesemu"]["graph"]["counts"] == {"safe": 1}


@pytest.mark.usefixtures("private_temporary")
@pytest.mark.parametrize("mode", ["warm", "cli", "bubblewrap"])
def test_nothing_of_a_canceled_run_is_left(
    guarded: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Whether it has a session of its own, or no environment by which a run is found."""
    choose(monkeypatch, mode)
    server = guarded()
    seconds = f"86400.{uuid.uuid4().int}"
    sleep = f"sleep {seconds}"
    workflow = f"""
rule all:
    output: "never"
    shell: "(setsid {sleep} &); (env -i setsid {sleep} &); touch begun; {sleep}; touch {{output}}"
"""
    run_id = post(server.url, "b", workflow, {})
    begun = Path("data/runs") / run_id / "work" / "begun"
    deadline = time.monotonic() + 60
    while not begun.exists() or len(processes_with(seconds)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    request = urllib.request.Request(
        f"{server.url}/ga4gh/wes/v1/runs/{run_id}/cancel",
        method="POST",
        headers={"Authorization": "Bearer b"},
    )
    urllib.request.urlopen(request).close()
    assert wait(server.url, "b", run_id)["state"] == "CANCELED"
    assert processes_with(seconds) == []


def processes_with(argument: str) -> list[int]:
    """Processes with exactly this argument."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if argument.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found
