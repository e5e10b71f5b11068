"""CWL: packed documents, time limits, errors of expressions."""

import json
import shutil

import pytest
from support.library_engines import needs_cwltool
from support.live_server import LiveServer, live_server_fixture

pytestmark = needs_cwltool
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not on PATH")

PACKED = """
cwlVersion: v1.2
$graph:
- id: main
  class: Workflow
  inputs: []
  outputs: {said: {type: File, outputSource: say/said}}
  steps:
    say: {run: "#say", in: [], out: [said]}
- id: say
  class: CommandLineTool
  baseCommand: [echo, packed]
  inputs: []
  outputs: {said: stdout}
  stdout: said.txt
- id: other
  class: CommandLineTool
  baseCommand: [echo, other]
  inputs: []
  outputs: {said: stdout}
  stdout: other.txt
"""


server = live_server_fixture()


@pytest.mark.parametrize(
    ("url", "made"),
    [
        ("packed.cwl#main", "said.txt"),
        ("packed.cwl#other", "other.txt"),
        ("packed.cwl", "said.txt"),
        ("folder/pack ed.cwl#say", "said.txt"),
    ],
)
def test_a_process_of_a_packed_document(server: LiveServer, url: str, made: str) -> None:
    run = server.run("CWL", PACKED, url=url)
    assert run.state == "COMPLETE", run.error
    assert json.loads(run.text("out/outputs.json"))["said"]["path"] == made
    assert run.text(f"out/{made}") == ("other\n" if "other" in url else "packed\n")


def test_a_process_that_the_document_lacks_is_named(server: LiveServer) -> None:
    run = server.run("CWL", PACKED, url="packed.cwl#nothing")
    assert run.state == "EXECUTOR_ERROR"
    assert "nothing" in run.error["message"]


@pytest.mark.parametrize("command", ["sleep 60", "trap : TERM; sleep 60 & wait; wait"])
def test_a_time_limit_is_reported_as_such(server: LiveServer, command: str) -> None:
    workflow = f"""
        cwlVersion: v1.2
        class: CommandLineTool
        requirements: {{ToolTimeLimit: {{timelimit: 1}}}}
        baseCommand: [bash, -c, '{command}']
        inputs: []
        outputs: []
    """
    run = server.run("CWL", workflow)
    assert run.state == "EXECUTOR_ERROR"
    assert "longer than its ToolTimeLimit of 1 s" in run.error["message"], run.error


TOOL = """
    cwlVersion: v1.2
    class: CommandLineTool
    requirements: {InlineJavascriptRequirement: {}}
    baseCommand: "true"
    inputs: {n: {type: int, default: 3}}
"""
EXPRESSION = """
    cwlVersion: v1.2
    class: ExpressionTool
    requirements: {InlineJavascriptRequirement: {}}
    inputs: []
    outputs: {x: int}
    expression: "${ throw new Error('the sample has no reads'); }"
"""
OUTPUT = "{outputEval: \"${ throw 'no count'; }\"}"


@needs_node
@pytest.mark.parametrize(
    ("workflow", "told"),
    [
        (EXPRESSION, "the expression failed: Error: the sample has no reads"),
        (
            TOOL + "    arguments: [$(inputs.nothing.size)]\n    outputs: []\n",
            "the expression failed: TypeError: Cannot read properties of undefined",
        ),
        (
            TOOL + f"    outputs: {{x: {{type: int, outputBinding: {OUTPUT}}}}}\n",
            "the expression failed: no count",
        ),
    ],
)
def test_the_message_of_an_expression_is_reported(
    server: LiveServer, workflow: str, told: str
) -> None:
    run = server.run("CWL", workflow)
    assert run.state == "EXECUTOR_ERROR"
    assert told in run.error["message"], run.error
    assert "use strict" not in run.error["message"]


def test_requirements_of_the_inputs_go_before_the_tool_s_own(server: LiveServer) -> None:
    workflow = """
        cwlVersion: v1.2
        class: CommandLineTool
        requirements: {EnvVarRequirement: {envDef: {WORD: tool}}}
        baseCommand: [bash, -c, 'echo $WORD']
        inputs: {word: string}
        outputs: {said: stdout}
        stdout: said.txt
    """
    word = {"envName": "WORD", "envValue": "$(inputs.word)"}
    requirements = [{"class": "EnvVarRequirement", "envDef": [word]}]
    run = server.run("CWL", workflow, params={"word": "inputs", "cwl:requirements": requirements})
    assert run.state == "COMPLETE", run.error
    assert run.text("out/said.txt") == "inputs\n"


def test_a_tool_takes_files_with_blanks_and_signs_in_their_names(server: LiveServer) -> None:
    workflow = """
        cwlVersion: v1.2
        class: CommandLineTool
        baseCommand: cat
        inputs: {file: {type: File, inputBinding: {}}}
        outputs: {said: stdout}
        stdout: said.txt
    """
    name = "item #1 (50%).txt"
    params = {"file": {"class": "File", "path": name}}
    run = server.run("CWL", workflow, {name: "there"}, params=params)
    assert run.state == "COMPLETE", run.error
    assert run.text("out/said.txt") == "there"
