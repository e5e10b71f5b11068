"""The examples of docs/examples run as documented."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def execute(*arguments: object, folder: Path, **environment: str) -> str:
    """Run Python with these arguments in `folder`. Return its output, with that of its children."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=kept | {"PATH": path} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def emulator(_wesemu_servers):
    return _wesemu_servers.get("scripted", {})


def test_the_client_project_has_thirty_tests_that_pass(tmp_path: Path) -> None:
    project = Path(shutil.copytree(EXAMPLES / "client-project", tmp_path / "project"))
    flags = ("-q", "-p", "no:cacheprovider", "-W", "error::ResourceWarning")
    assert "30 passed" in execute("-m", "pytest", *flags, folder=project)


def test_the_notebook_runs(emulator, tmp_path: Path) -> None:
    output = execute(EXAMPLES / "notebook.py", folder=tmp_path, WESEMU_SERVER=emulator.url)
    assert "1000 reads, 60 minutes, 0.00015 CNY" in output
    assert "COMPLETE" in output


def test_the_workflow_sends_a_job_and_fetches_its_result(emulator, tmp_path: Path) -> None:
    sample = emulator.reads(pairs=20, snps=0)
    bucket = emulator.client.bucket(sample.bucket)
    names = {"first": "reads_1.fq.gz", "second": "reads_2.fq.gz", "reference": "reference.fa"}
    config = [f"{name}={bucket.download(file, tmp_path)}" for name, file in names.items()]
    snakefile = EXAMPLES / "snakemake" / "Snakefile"
    flags = ("--cores", "1", "--snakefile", snakefile, "--config", *config)
    execute("-m", "snakemake", *flags, folder=tmp_path, WESEMU_SERVER=emulator.url)
    assert (tmp_path / "results" / "sample.bam").read_bytes()[:2] == b"\x1f\x8b"
    started = [each for each in emulator.requests if each.operation == "StartWorkflow"]
    assert [each.unread for each in started] == [("cli_version",)]
