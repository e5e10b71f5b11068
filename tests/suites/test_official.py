"""The official suites of the three languages, through `POST /runs`.

OFFICIAL_SUITES names a folder with their checkouts; a suite that is not there is skipped:

    snakemake   github.com/snakemake/snakemake at the installed version, or its sdist
    cwl-v1.2    github.com/common-workflow-language/cwl-v1.2; needs cwltest on PATH
    wdl         github.com/openwdl/wdl at branch wdl-1.1.2; its SPEC.md and tests/data

A case that fails here must also fail with the engine alone, except for the listed exceptions, which
have reasons. An exception that passes fails its test, so the lists stay true.
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
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

_FOLDER = os.environ.get("OFFICIAL_SUITES", "")
_TESTS = Path(__file__).parents[1]
_CWLTEST = shutil.which("cwltest")

_RECORDS = "a run starts without the records (.snakemake) of an earlier run"

KNOWN_SNAKEMAKE: Mapping[str, str] = {
    "test_failed_intermediate": _RECORDS,
    "test_github_issue3213": _RECORDS,
    "test_source_path_rerun": _RECORDS,
}

_WDL_REASONS: Mapping[str, str] = {
    # the example is wrong
    "its command does not print what the outputs expect": """
        workflow_with_comments sum_task task_outputs test_placeholders_task python_strip_task
        glob_task optional_output_task test_hints_task main other call_example test_after
        gen_files_task read_map_task write_json_task serialize_map serde_map_tsv_task
        """,
    "its document breaks the syntax, the names or the types of WDL 1.1": """
        map_to_struct relative_and_absolute_task single_return_code_task all_return_codes_task
        ex_paramter_meta_task import_structs call_imported_task if_else nested_if
        echo_stdout echo_stderr
        """,
    "its inputs are not those of its document": """
        hello_parallel nested_access placeholders person_struct_task outputs_task hisat2_task
        allow_nested test_range
        """,
    "its outputs are not those that its document describes": """
        non_empty_optional test_struct array_map_equality flags_task nested_scatter test_floor
        test_ceil test_round test_max test_sub test_prefix test_suffix
        serialize_array_delim_task serde_pair
        """,
    # miniwdl differs from the specification
    "miniwdl has no type Object": """
        test_object read_object_task read_objects_task write_object_task write_objects_task
        """,
    "miniwdl refuses a File that does not exist or is not an input": """
        test_map string_to_file placeholder_coercion test_flatten test_as_pairs test_as_map
        test_keys test_collect_by_key
        """,
    "miniwdl writes a Map with Int keys as JSON": "write_json_fail",
    # this test cannot offer what it needs
    "needs a container": "runtime_container_task",
    "needs a GPU": "test_gpu_task",
    "needs a network and a container": "gatk_haplotype_caller_task",
}
KNOWN_WDL: Mapping[str, str] = {
    name: reason for reason, names in _WDL_REASONS.items() for name in names.split()
}


def suite(name: str) -> Path:
    if not _FOLDER:
        pytest.skip("needs OFFICIAL_SUITES, a folder with the checkouts of official suites")
    folder = Path(_FOLDER, name).resolve()
    if not folder.is_dir():
        pytest.skip(f"OFFICIAL_SUITES has no {name}")
    return folder


# without a sandbox, because some tests write to /tmp; with the cores that they ask for
server = live_server_fixture(WESEMU_ENGINE__SANDBOX="none", WESEMU_NODE__CORES="100")


def outcomes(report: Path, *problems: str) -> list[tuple[str, str | None]]:
    """The tests of a JUnit report, each with its message if it has one of the problems."""
    found = list[tuple[str, str | None]]()
    for case in ET.parse(report).iter("testcase"):  # our own children wrote it
        name = case.get("file") or case.get("name", "")
        elements = [element for kind in problems for element in case.findall(kind)]
        message = elements[0].get("message", "")[:300] if elements else None
        found.append((name, message))
    return found


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
    tests = outcomes(report, "failure", "error")
    return {name: message for name, message in tests if message is not None}


def test_snakemakes_own_tests_pass_here_as_in_snakemake(server: LiveServer, tmp_path: Path) -> None:
    folder = suite("snakemake")
    through = ("-p", "suites.snakemake_over_wes", "--wes", server.home, "--runs", str(server.data))
    here = snakemake_tests(
        folder, tmp_path / "here.xml", *through, "-n", "3", "--dist", "load", "tests/tests.py"
    )
    names = [f"tests/tests.py::{name}" for name in here]
    alone = snakemake_tests(folder, tmp_path / "alone.xml", *names) if names else {}
    assert_known({n: text for n, text in here.items() if n not in alone}, KNOWN_SNAKEMAKE)


def conformance(
    tests: Path, report: Path, tool: list[str], numbers: Sequence[int] = ()
) -> list[tuple[str, str | None]]:
    """All tests in cwltest's format, or those with these numbers, in their order.

    A test that needs an unsupported feature has not passed. The names are those of the first
    tests if `numbers` are given: cwltest writes so.
    """
    assert _CWLTEST
    chosen = ("-n", ",".join(map(str, numbers))) if numbers else ()
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
    return outcomes(report, "failure", "error", "skipped")


needs_cwltest = pytest.mark.skipif(not _CWLTEST, reason="needs cwltest (pip install cwltest)")


@needs_cwltest
@needs_cwltool
def test_cwl_conformance(server: LiveServer, tmp_path: Path) -> None:
    tests = suite("cwl-v1.2") / "conformance_tests.yaml"
    ours = [sys.executable, cwl_runner.__file__, "--wes", server.url]
    here = conformance(tests, tmp_path / "here.xml", ours)
    numbers = [n for n, (_, problem) in enumerate(here, start=1) if problem is not None]
    cwltool = [str(Path(sys.executable).with_name("cwltool")), "--no-container"]
    alone = conformance(tests, tmp_path / "alone.xml", cwltool, numbers) if numbers else []
    only_here = [n for n, (_, problem) in zip(numbers, alone, strict=True) if problem is None]
    assert_known({name: problem or "" for name, problem in (here[n - 1] for n in only_here)}, {})


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
        "named.cwl": """
            cwlVersion: v1.2
            class: CommandLineTool
            baseCommand: [sh, -c, "echo Docker >&2; exit 1"]
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
            - {id: named, doc: its error names Docker, tool: named.cwl, output: {}}
            - {id: wrong, doc: wrong, tool: flow.cwl, job: jobs/job.yml, output: {sorted: {
                class: File, location: sorted.txt, size: 5}}}
            """,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(dedent(text).lstrip())
    ours = [sys.executable, cwl_runner.__file__, "--wes", server.url]
    report = tmp_path / "report.xml"
    found = conformance(tmp_path / "tests.yml", report, ours)
    assert [name for name, problem in found if problem is None] == ["sorts", "fails"]
    assert not [name for name, problem in outcomes(report, "skipped") if problem is not None]


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
    assert found, (
        "OFFICIAL_SUITES: wdl/SPEC.md has no examples; take branch wdl-1.1.2 of openwdl/wdl"
    )
    documents = {example.name: example.document for example in found}
    with ThreadPoolExecutor(4) as threads:
        differences = threads.map(lambda example: difference(server, example, documents), found)
        wrong = {
            example.name.removesuffix(".wdl"): text
            for example, text in zip(found, differences, strict=True)
        }
    assert_known({name: text for name, text in wrong.items() if text}, KNOWN_WDL)
