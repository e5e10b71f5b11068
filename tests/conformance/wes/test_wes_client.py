"""GA4GH's own client (PyPI wes-service 5.0, command wes-client) against this server."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from api.wes.fixtures import Client, Ended, Serve

from wesemu.runs.clock import ManualClock
from wesemu.testing.fake_engine import ScriptedEngine

PROGRAM = shutil.which("wes-client")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no wes-client on PATH (wes-service 5.0)")

SCRIPT = [{"task": "a", "stderr": "hello\n"}, {"write": "out.txt", "text": "x"}]


@pytest.fixture
def engine(clock: ManualClock) -> ScriptedEngine:
    """wes-client sends CWL, WDL and Python only."""
    return ScriptedEngine(clock, name="cwltool", workflow_types={"CWL": ("v1.2",)})


@pytest.fixture
def workflow(tmp_path: Path) -> tuple[str, str]:
    """A workflow and its job order, as paths."""
    workflow, order = tmp_path / "flow.cwl", tmp_path / "order.json"
    workflow.write_text("cwlVersion: v1.2\n")
    order.write_text(json.dumps({"script": SCRIPT}))
    return str(workflow), str(order)


async def run(wes: Client, *arguments: str, auth: str = "") -> tuple[int, str, str]:
    shown = ["--auth", auth] if auth else []
    process = await asyncio.create_subprocess_exec(
        str(PROGRAM), "--proto", "http", "--host", f"{wes.host}:{wes.port}", *shown, *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def ask(wes: Client, *arguments: str, auth: str = "") -> Any:
    code, out, err = await run(wes, *arguments, auth=auth)
    assert code == 0, err
    return json.loads(out)


async def test_a_run_from_submission_to_log(
    wes: Client, ended: Ended, workflow: tuple[str, str]
) -> None:
    code, run_id, err = await run(wes, "--no-wait", *workflow)
    assert code == 0, err
    await ended(run_id.strip())
    log = await ask(wes, "--get", run_id.strip())
    assert log["state"] == "COMPLETE"
    assert log["request"]["workflow_type"] == "CWL"
    assert list(log["outputs"]) == ["out.txt"]
    assert (await run(wes, "--log", run_id.strip()))[0] == 0
    [listed] = (await ask(wes, "--list"))["runs"]
    assert listed["run_id"] == run_id.strip()


async def test_a_run_that_is_waited_for(wes: Client, workflow: tuple[str, str]) -> None:
    code, out, err = await run(wes, "--wait", *workflow)
    assert code == 0, err
    assert "State is COMPLETE" in err
    assert json.loads(out)["out.txt"]["size"] == 1


async def test_attachments_beside_and_below(
    wes: Client, ended: Ended, workflow: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "tool.cwl").write_text("x")
    attached = f"file://{tmp_path}/sub/tool.cwl"
    flow, order = workflow
    code, out, err = await run(
        wes, "--no-wait", "--attachments", attached, f"file://{flow}", f"file://{order}"
    )
    assert code == 0, err
    await ended(out.strip())


async def test_its_bare_token_is_taken(serve: Serve) -> None:
    wes = await serve(tokens={"secret-a": "alice"})
    assert (await ask(wes, "--list", auth="secret-a"))["runs"] == []
    assert (await ask(wes, "--list", auth="x-api-key: secret-a"))["runs"] == []
    assert (await ask(wes, "--info", auth="wrong"))["supported_wes_versions"]
    assert (await run(wes, "--list", auth="wrong"))[0] != 0


async def test_its_post_lacks_the_token_and_is_refused(
    serve: Serve, workflow: tuple[str, str]
) -> None:
    wes = await serve(tokens={"secret-a": "alice"})
    code, _, err = await run(wes, "--no-wait", *workflow, auth="secret-a")
    assert code != 0
    assert "credentials are missing" in err
