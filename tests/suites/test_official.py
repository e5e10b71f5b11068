"""The official suites of the three languages, through `POST /runs`.

WESEMU_SUITES names a folder with their checkouts; a suite that is not there is skipped:

    snakemake   github.com/snakemake/snakemake at the installed version, or its sdist
    cwl-v1.2    github.com/common-workflow-language/cwl-v1.2; needs cwltest on PATH
    wdl         github.com/openwdl/wdl at branch wdl-1.1.2; its SPEC.md and tests/data

What fails here must fail with the engine alone too, but for the exceptions that are listed with
their reasons. An exception that passes fails its test, so that the lists stay true.
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from suites import cwl_runner
from support.library_engines import needs_cwltool, needs_miniwdl
from support.live_server import LiveServer, live_server_fixture

_FOLDER = os.environ.get("WESEMU_SUITES", "")
_TESTS = Path(__file__).parents[1]
_CWLTEST = shutil.which("cwltest")

_RECORDS = "a run starts without the records (.snakemake) of an earlier run"

KNOWN_SNAKEMAKE: Mapping[str, str] = {
    "test_failed_intermediate": _RECORDS,
    "test_github_issue3213": _RECORDS,
    "test_source_path_rerun": _RECORDS,
}
KNOWN_CWL: Mapping[str, str] = {}

_MISTAKE = "the example's own command, syntax, inputs or outputs are wrong"
_OBJECT = "miniwdl has no type Object"
_NO_INPUT = "miniwdl takes a File from a string only if it is an input"
_HERE = "needs a container, a GPU or a network"
_MINIWDL = "miniwdl does so by itself"

KNOWN_WDL: Mapping[str, str] = {
    **dict.fromkeys(
        [
            "hello_parallel",
            "workflow_with_comments",
            "sum_task",
            "non_empty_optional",
            "test_struct",
            "map_to_struct",
            "task_outputs",
            "nested_access",
            "placeholders",
            "flags_task",
            "person_struct_task",
            "import_structs",
            "test_placeholders_task",
            "python_strip_task",
            "outputs_task",
            "glob_task",
            "optional_output_task",
            "all_return_codes_task",
            "test_hints_task",
            "ex_paramter_meta_task",
            "hisat2_task",
            "call_imported_task",
            "main",
            "other",
            "call_example",
            "test_after",
            "allow_nested",
            "nested_scatter",
            "if_else",
            "nested_if",
            "test_floor",
            "test_ceil",
            "test_round",
            "test_max",
            "gen_files_task",
            "echo_stdout",
            "echo_stderr",
            "read_map_task",
            "write_json_task",
            "test_prefix",
            "test_suffix",
            "test_range",
            "serialize_array_delim_task",
            "serde_pair",
            "serialize_map",
            "serde_map_tsv_task",
        ],
        _MISTAKE,
    ),
    **dict.fromkeys(
        [
            "test_object",
            "read_object_task",
            "read_objects_task",
            "write_object_task",
            "write_objects_task",
        ],
        _OBJECT,
    ),
    **dict.fromkeys(
        [
            "test_map",
            "string_to_file",
            "placeholder_coercion",
            "test_flatten",
            "test_as_pairs",
            "test_as_map",
            "test_keys",
            "test_collect_by_key",
        ],
        _NO_INPUT,
    ),
    **dict.fromkeys(
        ["runtime_container_task", "test_gpu_task", "gatk_haplotype_caller_task"],
        _HERE,
    ),
    **dict.fromkeys(
        [
            "array_map_equality",
            "relative_and_absolute_task",
            "single_return_code_task",
            "test_sub",
            "write_json_fail",
        ],
        _MINIWDL,
    ),
}


def suite(name: str) -> Path:
    if not _FOLDER:
        pytest.skip("needs WESEMU_SUITES, a folder with the checkouts of official suites")
    folder = Path(_FOLDER, name).resolve()
    if not folder.is_dir():
        pytest.skip(f"WESEMU_SUITES has no {name}")
    return folder


# without a sandbox, because some tests write to /tmp; with the cores that they ask for
server = live_server_fixture(WESEMU_ENGINE__SANDBOX="none", WESEMU_NODE__CORES="100")


def failed_cases(report: Path) -> dict[str, str]:
    """The failed tests of a JUnit report, with their messages."""
    failed = dict[str, str]()
    for case in ET.parse(report).iter("testcase"):  # our own children wrote it
        for problem in (*case.findall("failure"), *case.findall("error")):
            failed[case.get("file") or case.get("name", "")] = problem.get("message", "")[:300]
    return failed


def assert_known(failed: Mapping[str, str], known: Mapping[str, str]) -> None:
    new = {name: message for name, message in failed.items() if name not in known}
    assert not new, json.dumps(new, indent=2)
    passing = sorted(set(known) - set(failed))
    assert not passing, f"known exceptions that pass; remove them from the list: {passing}"


def snakemake_tests(folder: Path, report: Path, *arguments: str) -> dict[str, str]:
    """The failed ones of Snakemake's own tests."""
    subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", folder),
            *("-p", "no:cacheprovider", "-W", "ignore", "--junitxml", report),
            *("-o", "junit_family=xunit2", *arguments),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(_TESTS)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return failed_cases(report)


def test_snakemakes_own_tests_pass_here_as_in_snakemake(server: LiveServer, tmp_path: Path) -> None:
    folder = suite("snakemake")
    through = ("-p", "suites.snakemake_over_wes", "--wes", server.home, "--runs", str(server.data))
    here = snakemake_tests(
        folder, tmp_path / "here.xml", *through, "-n", "3", "--dist", "load", "tests/tests.py"
    )
    names = [f"tests/tests.py::{name}" for name in here]
    alone = snakemake_tests(folder, tmp_path / "alone.xml", *names) if names else {}
    assert_known({n: text for n, text in here.items() if n not in alone}, KNOWN_SNAKEMAKE)


def conformance(tests: Path, report: Path, tool: list[str], *chosen: str) -> dict[str, str]:
    """The failed ones of tests in cwltest's format."""
    assert _CWLTEST
    done = subprocess.run(
        [
            *(_CWLTEST, "--test", tests, "--tool", tool[0], "-j", "3", "--junit-xml", report),
            *(*chosen, "--", *tool[1:]),
        ],
        cwd=tests.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.exists(), done.stderr
    return failed_cases(report)


needs_cwltest = pytest.mark.skipif(not _CWLTEST, reason="needs cwltest (pip install cwltest)")


@needs_cwltest
@needs_cwltool
def test_cwl_conformance(server: LiveServer, tmp_path: Path) -> None:
    tests = suite("cwl-v1.2") / "conformance_tests.yaml"
    ours = [sys.executable, cwl_runner.__file__, "--wes", server.url]
    here = conformance(tests, tmp_path / "here.xml", ours)
    alone = dict[str, str]()
    if here:
        cwltool = [str(Path(sys.executable).with_name("cwltool")), "--no-container"]
        alone = conformance(tests, tmp_path / "alone.xml", cwltool, "-s", ",".join(here))
    assert_known({n: text for n, text in here.items() if n not in alone}, KNOWN_CWL)


@needs_cwltest
@needs_cwltool
def test_cwltest_takes_the_runner(server: LiveServer, tmp_path: Path) -> None:
    """Our own cases, and one whose expected output is wrong: cwltest really compares."""
    files = {
        "tools/sort.cwl": """
            cwlVersion: v1.2
            class: CommandLineTool
            baseCommand: sort
            inputs: {lines: {type: File, inputBinding: {}}}
            outputs: {sorted: {type: stdout, secondaryFiles: []}}
            stdout: sorted.txt
            """,
        "flow.cwl": """
            cwlVersion: v1.2
            class: Workflow
            inputs: {lines: File}
            outputs: {sorted: {type: File, outputSource: sort/sorted}}
            steps: {sort: {in: {lines: lines}, out: [sorted], run: tools/sort.cwl}}
            """,
        "fails.cwl": """
            cwlVersion: v1.2
            class: CommandLineTool
            baseCommand: "false"
            inputs: []
            outputs: []
            """,
        "jobs/job.yml": "lines: {class: File, location: ../data/lines.txt}",
        "data/lines.txt": "b\na\n",
        "tests.yml": """
            - {id: sorts, doc: sorts, tool: flow.cwl, job: jobs/job.yml, output: {sorted: {
                class: File, location: sorted.txt, size: 4,
                checksum: sha1$05dec960e24d918b8a73a1c53bcbbaac2ee5c2e0}}}
            - {id: fails, doc: fails, tool: fails.cwl, should_fail: true}
            - {id: wrong, doc: wrong, tool: flow.cwl, job: jobs/job.yml, output: {sorted: {
                class: File, location: sorted.txt, size: 5}}}
            """,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(dedent(text).lstrip())
    ours = [sys.executable, cwl_runner.__file__, "--wes", server.url]
    failed = conformance(tmp_path / "tests.yml", tmp_path / "report.xml", ours)
    assert list(failed) == ["wrong"]


_EXAMPLE = re.compile(  # as docs/MarkdownTests.md of github.com/openwdl/wdl-tests has it
    r"^<details>\s*<summary>\s*Example: (?P<name>\S+?\.wdl)\s*```wdl(?P<document>.+?)```"
    r"\s*</summary>(?P<rest>.*?)^</details>",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)
_SECTION = r"{}:\s*```json(.*?)```"


@dataclass(frozen=True)
class Example:
    """`fails` says that the run must fail; `left_out` are outputs that may be anything."""

    name: str
    document: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    fails: bool
    left_out: tuple[str, ...]
    priority: str
    task: str | None


def read_examples(specification: Path) -> Iterator[Example]:
    for found in _EXAMPLE.finditer(specification.read_text()):
        name, rest = found["name"], found["rest"]
        config = _section("Test config", rest)
        plain = name.removesuffix(".wdl")
        left_out = config.get("exclude_output", [])
        is_task = config.get("type") == "task" or plain.endswith("_task")
        yield Example(
            name=name,
            document=found["document"].strip() + "\n",
            inputs=_section("Example input", rest),
            outputs=_section("Example output", rest),
            fails=config.get("fail", bool(re.search(r"_fail(_task)?$", plain))),
            left_out=(left_out,) if isinstance(left_out, str) else tuple(left_out),
            priority=config.get("priority", "required"),
            task=config.get("target", re.sub("_task$", "", plain)) if is_task else None,
        )


def _section(title: str, text: str) -> dict[str, Any]:
    found = re.search(_SECTION.format(title), text, re.IGNORECASE | re.DOTALL)
    return dict(json.loads(found[1])) if found and found[1].strip() else {}


def examples() -> list[Example]:
    specification = Path(_FOLDER, "wdl", "SPEC.md")
    return list(read_examples(specification)) if _FOLDER and specification.is_file() else []


def imported(example: Example, documents: Mapping[str, str]) -> dict[str, str]:
    """The documents that one imports, directly or not."""
    found = dict[str, str]()
    waiting = [example.document]
    while waiting:
        for name in re.findall(r'^\s*import "([^"]+)"', waiting.pop(), re.MULTILINE):
            if name in documents and name not in found:
                found[name] = documents[name]
                waiting.append(found[name])
    return found


def same(found: Any, expected: Any) -> bool:
    """Files are compared by their names, numbers approximately."""
    match found, expected:
        case list(), list():
            return len(found) == len(expected) and all(map(same, found, expected))
        case dict(), dict():
            return found.keys() == expected.keys() and all(
                same(found[name], expected[name]) for name in expected
            )
        case float(), int() | float():
            return math.isclose(found, expected, rel_tol=1e-5)
        case str(), str():
            return found == expected or Path(found).name == Path(expected).name
        case _:
            return bool(found == expected)


def difference(server: LiveServer, example: Example, documents: Mapping[str, str]) -> str:
    """What is wrong with a run of an example; empty where nothing is."""
    folder = Path(_FOLDER, "wdl", "tests", "data")
    data = {path.name: path.read_bytes() for path in folder.iterdir()}
    files = {**data, **{f"data/{name}": content for name, content in data.items()}}
    answer = server.post(
        "WDL",
        example.document,
        {**files, **imported(example, documents)},
        params=example.inputs,
        engine={"task": example.task} if example.task else {},
        url=example.name,
    )
    if not answer.ok:
        return "" if example.fails else answer.text
    run = server.wait(answer.json()["run_id"])
    if example.fails or run.state != "COMPLETE":
        failed = run.state == "EXECUTOR_ERROR"
        return "" if example.fails and failed else f"{run.state} {run.error}"
    outputs = json.loads(run.text("out/outputs.json"))
    for name, value in example.outputs.items():
        left_out = {name, name.rpartition(".")[2]} & set(example.left_out)
        if not left_out and not same(outputs.get(name), value):
            return f"{name} is {outputs.get(name)!r}, not {value!r}"
    return ""


@needs_miniwdl
def test_examples_of_the_wdl_specification(server: LiveServer) -> None:
    suite("wdl")
    found = examples()
    assert found, "WESEMU_SUITES: wdl/SPEC.md has no examples; take branch wdl-1.1.2 of openwdl/wdl"
    documents = {example.name: example.document for example in found}
    with ThreadPoolExecutor(4) as threads:
        differences = threads.map(lambda example: difference(server, example, documents), found)
        wrong = {
            example.name.removesuffix(".wdl"): text
            for example, text in zip(found, differences, strict=True)
        }
    assert_known({name: text for name, text in wrong.items() if text}, KNOWN_WDL)
