"""Engine parameters in requests to POST /runs."""

from typing import Any

import pytest
import requests
from support.library_engines import CWL_FOUND, WDL_FOUND
from support.live_server import LiveServer, live_server_fixture

SNAKEFILE = """
    rule all:
        input: "a.txt"
    rule a:
        output: "a.txt"
        threads: 1
        params: sample=config.get("sample", "none")
        resources: extra="none"
        shell: "echo {params.sample} {threads} {resources.mem_mb} {resources.extra} > {output}"
"""
PROFILE = """
set-threads:
  a: 2
default-resources:
  mem_mb: max(3 * 2, 5)
set-resources:
  a:
    extra: "'from profile'"
config:
  - sample=p1
executor: slurm
jobs: 100
"""
CWL = """
    cwlVersion: v1.2
    class: CommandLineTool
    baseCommand: "true"
    inputs: []
    outputs: []
"""
WDL = """
    version 1.1
    task t {
      command <<< true >>>
      output { Int x = 1 }
    }
"""
WORKFLOWS = {"SMK": SNAKEFILE.replace("{resources.mem_mb}", "-"), "CWL": CWL, "WDL": WDL}
MISSING = {"CWL": not CWL_FOUND.usable, "WDL": not WDL_FOUND.usable}


server = live_server_fixture()


@pytest.mark.parametrize("kind", ["SMK", "CWL", "WDL"])
@pytest.mark.parametrize("form", ["{}", "--{}"])
def test_all_defaults_of_service_info_may_be_sent_back(
    server: LiveServer, kind: str, form: str
) -> None:
    if MISSING.get(kind):
        pytest.skip(f"the engine of {kind} is not installed")
    told = requests.get(f"{server.url}/service-info", timeout=60).json()
    listed = {p["name"]: p["default_value"] for p in told["default_workflow_engine_parameters"]}
    assert {"cores", "gpus", "callback_url", "targets", "keep_going"} <= set(listed)
    echoed = {form.format(name.replace("_", "-")): value for name, value in listed.items()}
    run = server.run(kind, WORKFLOWS[kind], engine=echoed)
    assert run.state == "COMPLETE", run.run_log


SHAPES: list[dict[str, Any]] = [
    {"--cores": 1},  # sapporo and wes-client: numbers
    {"--cores": "1", "--keep-going": None},  # toil-wes-cwl-runner: flags without values
    {"cores": "all", "-k": ""},
    {"jobs": "1", "callback_url": "", "gpus": "", "node": "auto"},
]


@pytest.mark.parametrize("engine", SHAPES, ids=str)
def test_clients_shapes_are_taken(server: LiveServer, engine: dict[str, Any]) -> None:
    for kind in ("SMK", "CWL", "WDL"):
        if not MISSING.get(kind):
            answer = server.post(kind, WORKFLOWS[kind], {}, engine={**engine, "dry_run": "true"})
            assert answer.status_code == 200, answer.text


def test_a_refusal_lists_what_is_allowed(server: LiveServer) -> None:
    answer = server.post("SMK", SNAKEFILE, {}, engine={"--jobscript": "x.sh"})
    assert answer.status_code == 400
    for name in ("callback_url", "cores", "dry_run", "gpus", "node", "targets", "profile"):
        assert name in answer.json()["msg"]


@pytest.mark.parametrize(
    ("engine", "made"),
    [
        (
            {
                "config": "sample='s 1'",
                "set_threads": "a=2",
                "default_resources": "mem_mb='max(2*3, 4)'",
                "set_resources": "a:extra=7",
            },
            "s 1 2 6 7",
        ),
        ({"profile": "folder"}, "p1 2 6 from profile"),
        ({"--profile": "folder/config.yaml", "--config": "sample=s2"}, "s2 2 6 from profile"),
        ({"workflow_profile": "folder", "set_threads": "a=1"}, "p1 1 6 from profile"),
    ],
    ids=["options", "profile", "over a profile's", "workflow profile"],
)
def test_snakemake_s_options_as_on_its_command_line(
    server: LiveServer, engine: dict[str, str], made: str
) -> None:
    run = server.run("SMK", SNAKEFILE, {"folder/config.yaml": PROFILE}, engine=engine)
    assert run.state == "COMPLETE", run.run_log
    assert run.text("a.txt").strip() == made
    if "folder" in str(engine):
        assert "which the server decides: jobs" in run.log("stderr")


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        ({"profile": "nowhere"}, "no profile nowhere among the attachments"),
        ({"set_threads": "a=-1"}, "Invalid threads definition"),
        ({"allowed_rules": "all"}, "a.txt"),
    ],
    ids=["no such profile", "no number", "no rule is left"],
)
def test_options_that_do_not_fit_fail_with_the_reason(
    server: LiveServer, engine: dict[str, str], told: str
) -> None:
    run = server.run("SMK", SNAKEFILE, engine=engine)
    assert run.state == "EXECUTOR_ERROR"
    assert told in run.error["message"], run.error


def test_a_workflow_s_own_configfile_must_be_there(server: LiveServer) -> None:
    workflow = (
        'configfile: "config.yaml"\n'
        + """
rule a:
    output: "a.txt"
    shell: "echo {config[sample]} > {output}"
"""
    )
    run = server.run("SMK", workflow)
    assert run.state == "EXECUTOR_ERROR"
    assert "config.yaml" in run.error["message"], run.error
    run = server.run("SMK", workflow, {"config.yaml": "sample: s3\n"})
    assert run.text("a.txt") == "s3\n"
    run = server.run("SMK", workflow, params={"sample": "s4"})
    assert run.text("a.txt") == "s4\n"
