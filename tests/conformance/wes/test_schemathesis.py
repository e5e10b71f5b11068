"""schemathesis (PyPI), bounded, against this project's own document and GA4GH's."""

import asyncio
import shutil
import sys
from pathlib import Path

import pytest
from api.wes.fixtures import Client, Ended, Serve
from conformance.wes.lives import PARAMS
from conformance.wes.test_documents import FILES, FOLDER
from conformance.wes.test_own_document import PATH as OWN

from wesemu.api.wes.models import PREFIX, VERSIONS, VersionName

PROGRAM = shutil.which("st", path=str(Path(sys.executable).parent)) or shutil.which("st")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no schemathesis (st) on PATH")

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
EXAMPLES = 15
SECONDS = 20


async def run(document: Path, url: str, *options: str) -> tuple[int, str]:
    """Its exit status and its report. `--phases`: not the stateful one, which guesses links."""
    process = await asyncio.create_subprocess_exec(
        str(PROGRAM), "run", str(document), "--url", url, "--header", "x-api-key: secret-a",
        "--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing",
        "--max-examples", str(EXAMPLES), "--seed", "1", "--generation-deterministic",
        "--max-time", str(SECONDS), "--workers", "1",
        "--warnings", "off", "--no-color", *options,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd="/",
    )  # fmt: skip
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


@pytest.fixture
async def lively(serve: Serve, ended: Ended) -> Client:
    """A server with a run that has ended."""
    wes = await serve(tokens={"secret-a": "local"})
    body = {"workflow_url": "mapping", "workflow_params": PARAMS}
    headers = {"x-api-key": "secret-a"}
    async with wes.post(f"{PREFIX}/runs", json=body, headers=headers) as answer:
        await ended((await answer.json())["run_id"])
    return wes


async def test_no_answer_is_undocumented(lively: Client) -> None:
    code, report = await run(OWN, f"http://{lively.host}:{lively.port}{PREFIX}")
    assert code == 0, report[-8000:]


@pytest.mark.parametrize("version", list(VERSIONS))
async def test_no_answer_is_unknown_to_ga4ghs_document(
    lively: Client, version: VersionName
) -> None:
    document = FOLDER / FILES[version]
    if not document.is_file():
        pytest.skip("no official documents in ../shared/openapi beside the checkout")
    url = f"http://{lively.host}:{lively.port}/{version}{PREFIX}"
    code, report = await run(document.resolve(), url)
    assert code == 0, report[-8000:]
