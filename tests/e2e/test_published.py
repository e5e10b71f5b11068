"""A run publishes all files that its engine reports, unchanged, or names the reason."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.library_engines import needs_cwltool, needs_miniwdl
from support.live_server import LiveRun, LiveServer, live_server_fixture

BAM, INDEX = b"a BAM file\n" * 1000, b"its index\n"

INDEX_BESIDE_THE_BAM = """
    cwlVersion: v1.2
    class: CommandLineTool
    requirements: {InitialWorkDirRequirement: {listing: [$(inputs.bam)]}}
    baseCommand: [sh, -c, 'echo "its index" > $0.bai']
    inputs: {bam: {type: File, inputBinding: {valueFrom: $(self.basename)}}}
    outputs:
      indexed:
        type: File
        secondaryFiles: [.bai]
        outputBinding: {glob: $(inputs.bam.basename)}
"""

PASSED_BY_AN_EXPRESSION = """
    cwlVersion: v1.2
    class: ExpressionTool
    requirements: {InlineJavascriptRequirement: {}}
    inputs: {bam: File}
    outputs: {same: File, literal: File, again: File}
    expression: |
      ${ var literal = {class: "File", basename: "words.txt", contents: "one\\r\\ntwo \\u00e9"};
         return {same: inputs.bam, again: inputs.bam, literal: literal}; }
"""

FOLDERS = """
    cwlVersion: v1.2
    class: CommandLineTool
    baseCommand: [sh, -c]
    arguments:
      - 'mkdir -p d/inner d/empty; echo a > d/a; echo b > d/inner/b; ln -s a d/link;
        ln -s inner d/near; COMMAND'
    inputs: []
    outputs:
      folder: {type: Directory, outputBinding: {glob: d}}
      single: {type: File, outputBinding: {glob: d/a}}
"""


server = live_server_fixture()


def files_of(value: Any) -> Iterator[Mapping[str, Any]]:
    """The Files of a CWL output object."""
    if isinstance(value, list):
        for item in value:
            yield from files_of(item)
    elif isinstance(value, dict):
        if value.get("class") == "File":
            yield value
        for item in value.values():
            yield from files_of(item)


def reported(run: LiveRun) -> Any:
    """outputs.json, after a check of each published file against it."""
    assert run.state == "COMPLETE", run.run_log
    told = json.loads(run.text("out/outputs.json"))
    files = list(files_of(told))
    for file in files:
        content = run.content(f"out/{file['path']}")
        assert file["size"] == len(content)
        assert file["checksum"] == f"sha1${hashlib.sha1(content).hexdigest()}"
    assert set(run.outputs) == {"out/outputs.json"} | {f"out/{file['path']}" for file in files}
    return told


@needs_cwltool
def test_an_input_that_a_tool_passes_through_is_published_whole(server: LiveServer) -> None:
    params = {"bam": {"class": "File", "path": "x.bam"}}
    run = server.run("CWL", INDEX_BESIDE_THE_BAM, {"x.bam": BAM}, params=params)
    told = reported(run)
    assert run.content("out/x.bam") == BAM
    assert run.content("out/x.bam.bai") == INDEX
    assert [file["path"] for file in told["indexed"]["secondaryFiles"]] == ["x.bam.bai"]


@needs_cwltool
def test_an_expression_may_pass_files_and_make_literal_ones(server: LiveServer) -> None:
    name = "x #1 50%.bam"
    params = {"bam": {"class": "File", "path": name}}
    run = server.run("CWL", PASSED_BY_AN_EXPRESSION, {name: BAM}, params=params)
    told = reported(run)
    assert told["same"] == told["again"]
    assert run.content(f"out/{told['same']['path']}") == BAM
    assert run.content("out/words.txt") == "one\r\ntwo \u00e9".encode()


@needs_cwltool
def test_a_url_that_an_expression_passes_is_fetched(server: LiveServer) -> None:
    earlier = server.run("SMK", 'rule a:\n    output: "x.bam"\n    shell: "echo far > {output}"\n')
    params = {"bam": {"class": "File", "location": earlier.outputs["x.bam"]["url"]}}
    run = server.run("CWL", PASSED_BY_AN_EXPRESSION, params=params)
    assert run.content("out/x.bam") == b"far\n"
    reported(run)


@needs_cwltool
def test_folders_carry_their_listing_and_a_file_may_be_named_twice(server: LiveServer) -> None:
    run = server.run("CWL", FOLDERS.replace("COMMAND", "true"))
    told = reported(run)
    listing = {item["basename"]: item for item in told["folder"]["listing"]}
    assert set(listing) == {"a", "inner", "empty", "link", "near"}
    assert listing["empty"]["listing"] == []
    assert listing["inner"]["listing"][0]["path"] == "d/inner/b"
    assert run.text("out/d/link") == run.text("out/a") == "a\n"
    assert run.text("out/d/near/b") == "b\n"


@needs_cwltool
@pytest.mark.parametrize("link", ["nowhere", "/etc/hostname", "/etc"])
def test_a_folder_with_a_link_that_cannot_be_published_fails_by_its_name(
    server: LiveServer, link: str
) -> None:
    run = server.run("CWL", FOLDERS.replace("COMMAND", f"ln -s {link} d/astray"))
    assert run.state == "EXECUTOR_ERROR"
    assert "d/astray" in run.error["message"], run.error
    assert run.outputs == {}


BY_A_SCRIPT = """
    cwlVersion: v1.2
    class: CommandLineTool
    baseCommand: bash
    inputs: {script: {type: File, inputBinding: {}}}
    outputs: {folder: {type: Directory, outputBinding: {glob: d}}}
"""


@needs_cwltool
def test_a_name_that_is_not_utf8_fails_a_cwl_run_by_it(server: LiveServer) -> None:
    script = b"mkdir d; echo good > d/good; echo bad > d/bad\xff"
    params = {"script": {"class": "File", "path": "make.sh"}}
    run = server.run("CWL", BY_A_SCRIPT, {"make.sh": script}, params=params)
    assert run.state == "EXECUTOR_ERROR"
    assert "d/bad\\xff cannot be published" in run.error["message"], run.error


WDL_FOLDERS = """
    version 1.0
    task t {
      input { File bam }
      command <<<
        mkdir d; echo a > d/a
        LINK
      >>>
      output { File same = bam  File made = "d/a"  File other = "other" }
    }
"""


@needs_miniwdl
def test_wdl_publishes_inputs_and_files_whole(server: LiveServer) -> None:
    workflow = WDL_FOLDERS.replace("LINK", "ln -s d/a other")
    run = server.run("WDL", workflow, {"x.bam": BAM}, params={"bam": "x.bam"})
    assert run.state == "COMPLETE", run.run_log
    told = json.loads(run.text("out/outputs.json"))
    contents = {name: run.content(f"out/{path}") for name, path in told.items()}
    assert contents == {"t.same": BAM, "t.made": b"a\n", "t.other": b"a\n"}


NESTED = """
    rule all:
        input: "qc", "qc/summary.txt", "d/done", "outer", "outer/inner"
    rule qc:
        output: directory("qc"), "qc/summary.txt"
        shell: "mkdir -p qc; echo 1 > qc/one.txt; echo s > qc/summary.txt"
    rule d:
        output: directory("d"), touch("d/done")
        shell: "mkdir -p d; echo x > d/other"
    rule outer:
        output: directory("outer"), directory("outer/inner")
        shell: "mkdir -p outer/inner; echo o > outer/o; echo i > outer/inner/i"
"""


def test_outputs_inside_each_other_are_published_once(server: LiveServer) -> None:
    run = server.run("SMK", NESTED)
    assert run.state == "COMPLETE", run.run_log
    names = {"qc/one.txt", "qc/summary.txt", "d/done", "d/other", "outer/o", "outer/inner/i"}
    assert set(run.outputs) == names
    for name in names:
        content = (run.folder / "work" / name).read_bytes()
        assert run.content(name) == content
        assert run.outputs[name]["sha256"] == hashlib.sha256(content).hexdigest()


ASTRAY = """
    rule all:
        input: "qc", "good.txt"
    rule qc:
        output: directory("qc")
        shell:
            "mkdir -p qc/sub; echo 1 > qc/one.txt; ln -s one.txt qc/link.txt; ln -s sub qc/near; "
            "echo 2 > qc/sub/two.txt; ln -s /etc/hostname qc/out.txt; ln -s nowhere qc/dangling; "
            "ln -s .. qc/sub/up; mkfifo qc/pipe; ln -s /etc qc/etc; touch $'qc/bad\\\\xff.txt'; "
            "touch $'qc/new\\\\nline'; ln -s self qc/self"
    rule good:
        output: "good.txt"
        shell: "echo good > {output}"
"""


def test_what_can_be_published_is_and_what_cannot_is_named(server: LiveServer) -> None:
    run = server.run("SMK", ASTRAY)
    assert run.state == "COMPLETE", run.run_log
    published = {"qc/one.txt", "qc/link.txt", "qc/near/two.txt", "qc/sub/two.txt", "qc/new\nline"}
    assert set(run.outputs) == published | {"good.txt"}
    assert run.text("qc/link.txt") == "1\n"
    assert run.text("qc/new\nline") == ""
    named = ["qc/out.txt", "qc/dangling", "qc/sub/up", "qc/pipe", "qc/etc", "qc/bad\\xff.txt"]
    assert [
        name for name in [*named, "qc/self"] if f"{name} is not published" not in run.notes
    ] == []
    assert "hostname" not in " ".join(run.outputs)


DECLARED = """
    rule all:
        input: "astray.txt", "good.txt"
    rule astray:
        output: "astray.txt"
        shell: "ln -s TARGET {output}"
    rule good:
        output: "good.txt"
        shell: "echo good > {output}"
"""


@pytest.mark.parametrize("target", ["/etc/hostname", "/etc"])
def test_an_output_that_cannot_be_published_fails_the_run_by_its_name(
    server: LiveServer, target: str
) -> None:
    workflow = DECLARED.replace("TARGET", target)
    if target == "/etc":
        workflow = workflow.replace('output: "astray.txt"', 'output: directory("astray.txt")')
    run = server.run("SMK", workflow)
    assert run.state == "EXECUTOR_ERROR"
    assert run.error["message"].startswith(
        "the output astray.txt cannot be published: it is a link"
    )
    assert run.outputs == {}
    assert list(run.partial) == ["good.txt"]
    assert run.text("good.txt") == "good\n"


FAILING = """
    rule all:
        input: "good.txt", "bad.txt", "never.txt"
    rule good:
        output: "good.txt"
        shell: "echo good > {output}"
    rule bad:
        input: "good.txt"
        output: "bad.txt"
        shell: "echo half > {output}; exit 3"
    rule never:
        input: "bad.txt"
        output: "never.txt"
        shell: "echo > {output}"
"""


def test_a_failed_run_lists_what_it_has_made_as_partial(server: LiveServer) -> None:
    run = server.run("SMK", FAILING, {"never.txt": "an old one"})
    assert run.state == "EXECUTOR_ERROR"
    assert run.outputs == {}
    assert list(run.partial) == ["good.txt"]
    assert run.text("good.txt") == "good\n"
    assert Path(run.folder / "outputs/good.txt").read_text() == "good\n"
