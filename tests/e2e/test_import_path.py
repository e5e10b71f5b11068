"""Processes of the server never import from the folder in which it was started."""

import json
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 120
FOREIGN = (
    "pip",
    "snakemake",
    "yaml",
    "psutil",
    "pysam",
    "structlog",
    "pydantic",
    "numpy",
    "jinja2",
)
SNAKEFILE = """
import helper
rule all:
    output: "said"
    run:
        import helper
        shell("echo {helper.WORD} > {output}")
"""


def set_traps(folder: Path) -> Path:
    """A module for every one of the standard library and some others; importing one is recorded."""
    record = folder / "imported"
    for name in {*sys.stdlib_module_names, *FOREIGN}:
        trap = f"open({str(record)!r}, 'a').write({name + chr(10)!r})\n"
        (folder / f"{name}.py").write_text(f"{trap}raise ImportError('a trap')\n")
    return record


def ask(url: str, data: bytes | None = None, kind: str = "application/json") -> Any:
    request = urllib.request.Request(url, data, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.load(answer)


def send(runs: str, snakefile: str) -> str:
    parts = {"Snakefile": snakefile, "helper.py": "WORD = 'hello'\n"}
    fields = {"workflow_url": "Snakefile", "workflow_type": "SMK"}
    lines = []
    for name, value in fields.items():
        lines += ["--B", f'Content-Disposition: form-data; name="{name}"', "", value]
    for name, value in parts.items():
        disposition = f'form-data; name="workflow_attachment"; filename="{name}"'
        lines += ["--B", f"Content-Disposition: {disposition}", "", value]
    body = "\r\n".join([*lines, "--B--", ""]).encode()
    return str(ask(runs, body, "multipart/form-data; boundary=B")["run_id"])


def finished(run: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        told = ask(run)
        if told["state"] not in ("QUEUED", "INITIALIZING", "RUNNING"):
            return told
        time.sleep(0.2)
    raise TimeoutError(run)


@pytest.mark.parametrize("mode", ["warm", "cli"])
def test_no_module_comes_from_where_the_server_was_started(
    serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """And a workflow's own modules are found, as by plain snakemake."""
    monkeypatch.setenv("WESEMU_ENGINE__SNAKEMAKE", mode)
    record = set_traps(tmp_path)
    server = serve()
    runs = f"{server.url}/ga4gh/wes/v1/runs"
    told = finished(f"{runs}/{(run_id := send(runs, SNAKEFILE))}")
    assert told["state"] == "COMPLETE", told
    assert (tmp_path / f"data/runs/{run_id}/work/said").read_text() == "hello\n"
    ready = ask(f"{server.url}/_wesemu/ready")
    assert ready == {"ready": True, "reasons": []}
    assert not record.exists(), record.read_text()
