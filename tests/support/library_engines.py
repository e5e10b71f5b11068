"""Helpers for tests of CWL and WDL: jobs, equivalent workflows, submission through WES."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from aiohttp import FormData, web
from aiohttp.test_utils import TestClient

from support.engine_runs import Story, follow, until
from wesemu.engines.execution import DetachedExecution
from wesemu.engines.library_engine import CwlEngine, LibraryEngine, WdlEngine, probe_cwl, probe_wdl
from wesemu.runs.model import LOCAL_OWNER, Resources, Run, RunId, RunRequest, RunState
from wesemu.runs.ports import LaunchRequest
from wesemu.runs.run_directory import Workspace
from wesemu.runs.sla import ServiceLevel

Client = TestClient[web.Request, web.Application]

ROOT = "/ga4gh/wes/v1"
TIMEOUT_SECONDS = 60

CWL_FOUND = probe_cwl()
WDL_FOUND = probe_wdl()
needs_cwltool = pytest.mark.skipif(not CWL_FOUND.usable, reason=CWL_FOUND.reason or "")
needs_miniwdl = pytest.mark.skipif(not WDL_FOUND.usable, reason=WDL_FOUND.reason or "")

CWL_GATED = """
    cwlVersion: v1.2
    class: Workflow
    inputs: {folder: string}
    outputs:
      made: {type: File, outputSource: second/made}
    steps:
      first:
        in: {folder: folder}
        out: [made]
        run:
          class: CommandLineTool
          baseCommand: [sh, -c, 'echo x >> $0/first.count; echo first']
          inputs: {folder: {type: string, inputBinding: {}}}
          outputs: {made: stdout}
          stdout: first.txt
      second:
        in: {folder: folder, made: first/made}
        out: [made]
        run:
          class: CommandLineTool
          baseCommand:
            - sh
            - -c
            - 'echo x >> $0/second.count; until [ -e $0/gate ]; do sleep 0.01; done; cat $1'
          inputs:
            folder: {type: string, inputBinding: {position: 1}}
            made: {type: File, inputBinding: {position: 2}}
          outputs: {made: stdout}
          stdout: second.txt
"""

WDL_GATED = """
    version 1.0
    workflow gated {
      input { String folder }
      call first { input: folder = folder }
      call second { input: folder = folder, given = first.made }
      output { File made = second.made }
    }
    task first {
      input { String folder }
      command <<< echo x >> ~{folder}/first.count; echo first > first.txt >>>
      output { File made = "first.txt" }
    }
    task second {
      input {
        String folder
        File given
      }
      command <<<
        echo x >> ~{folder}/second.count
        until [ -e ~{folder}/gate ]; do sleep 0.01; done
        cat ~{given} > second.txt
      >>>
      output { File made = "second.txt" }
    }
"""

CWL_SCATTER = """
    cwlVersion: v1.2
    class: Workflow
    requirements: {ScatterFeatureRequirement: {}}
    inputs: {numbers: 'string[]'}
    outputs: {}
    steps:
      each:
        scatter: number
        in: {number: numbers}
        out: []
        run:
          class: CommandLineTool
          requirements: {ResourceRequirement: {coresMin: CORES, ramMin: MEMORY}}
          hints: {HINTS}
          $namespaces: {cwltool: 'http://commonwl.org/cwltool#'}
          baseCommand: [bash, -c, 'COMMAND']
          inputs: {number: {type: string, inputBinding: {}}}
          outputs: []
"""

WDL_SCATTER = """
    version 1.0
    workflow scattered {
      input { Array[String] numbers }
      scatter (number in numbers) { call each { input: number = number } }
    }
    task each {
      input { String number }
      command <<<
        bash -c 'COMMAND' ~{number}
      >>>
      runtime { cpu: CORES memory: "MEMORY MiB" HINTS }
    }
"""


@dataclass(frozen=True)
class Language:
    """CWL or WDL, with equivalent workflows.

    `gated`: the task `second` waits for a file `gate` in the input `folder`. Both tasks count their
    starts there. `scatter`: a task `each` per item of `numbers`, which is $0 of its COMMAND.
    """

    kind: type[LibraryEngine]
    version: str | None
    file: str
    newest: str
    gated: str
    gated_output: str
    scatter: str
    gpu: str

    def engine(self, **options: Any) -> LibraryEngine:
        return self.kind(self.version or "", **options)

    def scattered(self, command: str, *, cores: int = 1, memory: int = 1, gpu: bool = False) -> str:
        text = self.scatter.replace("COMMAND", command).replace("HINTS", self.gpu if gpu else "")
        return text.replace("CORES", str(cores)).replace("MEMORY", str(memory))


CWL = Language(
    kind=CwlEngine,
    version=CWL_FOUND.version,
    file="flow.cwl",
    newest="v1.2",
    gated=CWL_GATED,
    gated_output="out/second.txt",
    scatter=CWL_SCATTER,
    gpu="'cwltool:CUDARequirement': {cudaVersionMin: '11.4', cudaComputeCapability: '3.0'}",
)
WDL = Language(
    kind=WdlEngine,
    version=WDL_FOUND.version,
    file="flow.wdl",
    newest="1.1",
    gated=WDL_GATED,
    gated_output="out/made/second.txt",
    scatter=WDL_SCATTER,
    gpu="gpu: true",
)
LANGUAGES = [
    pytest.param(CWL, marks=needs_cwltool, id="CWL"),
    pytest.param(WDL, marks=needs_miniwdl, id="WDL"),
]


def make_job(
    folder: Path,
    workflow: str,
    config: Mapping[str, Any] | None = None,
    *,
    name: str,
    parameters: Mapping[str, str] | None = None,
    resources: Resources | None = None,
) -> LaunchRequest:
    """Create a run directory like the planner does, with `words.txt` attached."""
    workspace = Workspace(folder)
    workspace.work.mkdir(parents=True)
    (workspace.work / name).write_text(dedent(workflow).lstrip())
    (workspace.work / "words.txt").write_text("one\ntwo\n")
    return LaunchRequest(
        run_id=folder.name,
        workspace=workspace,
        workflow_file=workspace.work / name,
        config=dict(config or {}),
        resources=resources or Resources(cores=2),
        engine_parameters=parameters or {},
    )


async def play(engine: LibraryEngine, job: LaunchRequest) -> Story:
    return await follow(await engine.launch(job))


async def launch_gated(
    language: Language, engine: LibraryEngine, folder: Path
) -> tuple[LaunchRequest, DetachedExecution]:
    """Start a run whose second task waits for its gate."""
    job = make_job(folder, language.gated, {"folder": str(folder / "work")}, name=language.file)
    execution = await engine.launch(job)
    await until((job.workspace.work / "second.count").exists)
    return job, execution


def run_of(job: LaunchRequest) -> Run:
    return Run(
        id=RunId(job.run_id),
        sequence=1,
        handle="abcde",
        owner=LOCAL_OWNER,
        state=RunState.RUNNING,
        workflow="",
        service_level=ServiceLevel.SILVER,
        request=RunRequest(job.workflow_file.name, "CWL"),
        resources=Resources(),
        created=datetime(2026, 1, 1, tzinfo=UTC),
    )


async def submit(server: Client, language: Language, params: Any, files: Mapping[str, str]) -> str:
    """Submit a run through WES. Return its id."""
    form = FormData(default_to_multipart=True)
    [kind] = language.kind.types
    form.add_field("workflow_type", kind)
    form.add_field("workflow_type_version", language.newest)
    form.add_field("workflow_url", language.file)
    form.add_field("workflow_params", json.dumps(params))
    for name, text in files.items():
        form.add_field("workflow_attachment", text.encode(), filename=name)
    async with server.post(f"{ROOT}/runs", data=form) as answer:
        payload = await answer.json()
        assert answer.status == 200, payload
    return str(payload["run_id"])


async def ended(server: Client, run_id: str) -> dict[str, Any]:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            async with server.get(f"{ROOT}/runs/{run_id}") as answer:
                run: dict[str, Any] = await answer.json()
            if run["state"] not in ("QUEUED", "INITIALIZING", "RUNNING"):
                return run
            await asyncio.sleep(0.05)
