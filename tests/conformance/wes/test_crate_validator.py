"""Crates in the community's validator (PyPI roc-validator), without a network."""

import asyncio
import io
import json
import shutil
import subprocess
import zipfile
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData
from api.wes.fixtures import Client
from pytest_aiohttp import AiohttpClient

from wesemu.app import create_app
from wesemu.engines.snakemake import SnakemakeEngine
from wesemu.settings import Settings

pytest.importorskip("rocrate", reason="ro-crate-py is not installed: pip install 'wesemu[crate]'")
PROGRAM = shutil.which("rocrate-validator")
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no rocrate-validator on PATH (roc-validator 0.13)"
)

RUNS = "/ga4gh/wes/v1/runs"
SAMPLE = Path(__file__).resolve().parents[3] / "testdata" / "diploid"
ROCRATE = "https://w3id.org/ro/crate/1.1/context"
RUN_TERMS = "https://w3id.org/ro/terms/workflow-run"
BIOSCHEMAS = "https://bioschemas.org"

LEFT = {
    "process-run-crate-0.5_3.2",  # a URL of each workflow and program: ours have none
    "process-run-crate-0.5_5.1",  # the workflow as an absolute URI: it is a file of the crate
    "ro-crate-1.1_22.3",  # a publisher: nobody has published it
    "ro-crate-1.1_27.1",  # the media type of a reference without an extension
    "ro-crate-1.1_28.1",  # oss:// is a scheme that the validator cannot look behind
    "ro-crate-1.1_29.1",  # the size of a file elsewhere
    "ro-crate-1.1_30.2",  # an affiliation of the owner: unknown
    "ro-crate-1.1_30.3",
}
"""What is recommended and not done; whatever else is recommended, our crates have."""

NO_VERSION = ("RECOMMENDED", "process-run-crate-0.5_7.1")  # of an attached workflow
NO_RESULT = ("RECOMMENDED", "process-run-crate-0.5_11.1")  # of a run that failed

Validate = Callable[[bytes], Awaitable[list[dict[str, Any]]]]


def contexts() -> dict[str, Any]:
    """What the validator would fetch: the terms of RO-Crate 1.1, made of those that ro-crate-py
    brings, and the terms of the run crates that our crates use."""
    terms: dict[str, str] = json.loads(
        files("rocrate").joinpath("data/ro-crate.jsonld").read_text("utf8")
    )["@context"]
    # Bioschemas has renamed them since
    terms |= {
        "ComputationalWorkflow": f"{BIOSCHEMAS}/ComputationalWorkflow",
        "FormalParameter": f"{BIOSCHEMAS}/FormalParameter",
        "input": f"{BIOSCHEMAS}/ComputationalWorkflow#input",
        "output": f"{BIOSCHEMAS}/ComputationalWorkflow#output",
    }
    run_terms = {"sha256": f"{RUN_TERMS}#sha256"}
    return {ROCRATE: {"@context": terms}, f"{RUN_TERMS}/context": {"@context": run_terms}}


@pytest.fixture
def validate(tmp_path: Path) -> Validate:
    """The issues that the validator finds, recommendations included."""
    cache, documents = tmp_path / "cache", tmp_path / "contexts.json"

    def find(content: bytes) -> list[dict[str, Any]]:
        documents.write_text(json.dumps(contexts()))
        python = Path(str(PROGRAM)).resolve().parent / "python"
        fill = Path(__file__).with_name("crate_contexts.py")
        subprocess.run([python, fill, cache, documents], check=True, timeout=300)
        (tmp_path / "crate.zip").write_bytes(content)
        with zipfile.ZipFile(tmp_path / "crate.zip") as archive:
            archive.extractall(tmp_path / "crate")
        report = tmp_path / "report.json"
        ended = subprocess.run(
            [
                str(PROGRAM), "-y", "validate", "--offline", "--cache-path", cache, "--no-paging",
                "--profile-identifier", "workflow-run-crate", "--requirement-severity",
                "recommended", "--output-format", "json", "--output-file", report,
                tmp_path / "crate",
            ],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert report.is_file(), ended.stdout[-4000:]
        found = json.loads(report.read_text())
        assert found["statistics"]["total_checks"] > 100
        return list(found["issues"])

    async def validate(content: bytes) -> list[dict[str, Any]]:
        return await asyncio.to_thread(find, content)

    return validate


def told(issues: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [
        (issue["severity"], issue["check"]["identifier"], issue["message"])
        for issue in issues
        if issue["check"]["identifier"] not in LEFT or issue["severity"] == "REQUIRED"
    ]


async def crate(client: Client, data: Any = None, **body: Any) -> bytes:
    """The crate of a new run, whatever came of it."""
    how: Any = {"data": data} if data is not None else {"json": body}
    async with client.post(RUNS, **how) as answer:
        assert answer.status == 200, await answer.text()
        run_id = (await answer.json())["run_id"]
    async with asyncio.timeout(180):
        while (content := await ended_crate(client, run_id)) is None:
            await asyncio.sleep(0.05)
    return content


async def ended_crate(client: Client, run_id: str) -> bytes | None:
    """None before the run's end."""
    async with client.get(f"{RUNS}/{run_id}/ro-crate") as answer:
        assert answer.status in (200, 409), await answer.text()
        return await answer.read() if answer.status == 200 else None


async def test_a_run_of_real_tools_keeps_to_the_profiles(
    settings: Settings, aiohttp_client: AiohttpClient, validate: Validate
) -> None:
    folder = settings.data / "buckets" / "genes" / "diploid"
    await asyncio.to_thread(shutil.copytree, SAMPLE, folder)
    client = await aiohttp_client(await create_app(settings, engines=[SnakemakeEngine()]))
    reads = "oss://genes/diploid/reads_"
    params = {
        "reads": [{"first": f"{reads}1.fq.gz", "second": f"{reads}2.fq.gz"}],
        "reference": "oss://genes/diploid/reference.fa",
        "bam": "oss://genes/o/a.bam",
    }
    content = await crate(client, workflow_url="mapping", workflow_params=params)
    assert told(await validate(content)) == []
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert json.loads(archive.read("run.json"))["state"] == "COMPLETE"


@pytest.mark.parametrize("end", [{"write": "o.txt", "text": "x"}, {"task": "a", "exit_code": 1}])
async def test_a_workflow_of_one_s_own_keeps_to_the_profiles(
    client: Client, validate: Validate, end: dict[str, Any]
) -> None:
    form = FormData({"workflow_type": "SMK", "workflow_url": "Snakefile"})
    params = {"script": [end], "reads": "https://joe:pw@h.example/a.fq?sig=x", "ratio": 0.5}
    form.add_field("workflow_params", json.dumps(params))
    form.add_field("workflow_attachment", b"rule all:\n", filename="Snakefile")
    form.add_field("workflow_attachment", b"# http://joe:pw@h/\n", filename="a b/caf\xe9.smk")
    issues = told(await validate(await crate(client, data=form)))
    wanted = {NO_VERSION, NO_RESULT} if "task" in end else {NO_VERSION}
    assert {(severity, check) for severity, check, _ in issues} == wanted, issues


async def test_the_validator_finds_what_is_wrong(client: Client, validate: Validate) -> None:
    form = FormData({"workflow_type": "SMK", "workflow_url": "Snakefile"})
    form.add_field("workflow_params", '{"script": []}')
    form.add_field("workflow_attachment", b"rule all:\n", filename="Snakefile")
    content = io.BytesIO(await crate(client, data=form))
    broken = io.BytesIO()
    with zipfile.ZipFile(content) as archive, zipfile.ZipFile(broken, "w") as written:
        for name in archive.namelist():
            text = archive.read(name)
            written.writestr(name, text.replace(b'"instrument"', b'"funder"'))
    issues = await validate(broken.getvalue())
    assert "REQUIRED" in {issue["severity"] for issue in issues}
