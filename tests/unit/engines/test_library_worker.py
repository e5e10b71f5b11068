"""Shared parts of the CWL and WDL engines, and their assumptions about cwltool."""

import hashlib
import inspect
from importlib import import_module
from pathlib import Path

import pytest

from wesemu.engines.cwl.hooks import Hooks
from wesemu.engines.cwl.worker import keep_outputs
from wesemu.engines.launch_spec import find_container_tool
from wesemu.engines.library_engine import probe_cwl, probe_package
from wesemu.runs.run_directory import Workspace

needs_cwltool = pytest.mark.skipif(not probe_cwl().usable, reason=probe_cwl().reason or "")


def test_probe_tells_how_to_install_what_is_not_there() -> None:
    absent = probe_package("no-such-distribution", "no_such_module", "cwl")
    assert not absent.usable
    assert "pip install 'wesemu[cwl]'" in (absent.reason or "")


def test_probe_does_not_trust_metadata_alone() -> None:
    broken = probe_package("pytest", "no_such_module", "cwl")
    assert not broken.usable
    assert "no_such_module" in (broken.reason or "")


def test_container_tool_must_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_container_tool() is None
    for name, code in (("docker", 1), ("podman", 0), ("apptainer", 0)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / name).chmod(0o755)
    assert find_container_tool() == "podman"


@needs_cwltool
@pytest.mark.filterwarnings("ignore")
def test_hook_has_the_signature_of_what_it_replaces() -> None:
    theirs = inspect.signature(import_module("cwltool.job")._job_popen)
    ours = inspect.signature(Hooks.start_process)
    assert list(ours.parameters)[1:] == list(theirs.parameters)


@needs_cwltool
@pytest.mark.filterwarnings("ignore")
def test_cache_locks_are_where_they_are_hooked() -> None:
    tools = import_module("cwltool.command_line_tool")
    for name in ("shared_file_lock", "upgrade_lock"):
        assert list(inspect.signature(getattr(tools, name)).parameters) == ["fd"]


def make_file(workspace: Workspace, name: str, text: str) -> dict[str, object]:
    path = workspace.work / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return {"class": "File", "location": path.as_uri(), "basename": path.name, "size": len(text)}


def test_files_of_one_name_keep_apart(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    first, second = make_file(workspace, "1/a b.txt", "1"), make_file(workspace, "2/a b.txt", "2")
    files = keep_outputs(workspace, {"both": [first, second], "again": first}).files
    assert files == ["out/a b.txt", "out/a b_2.txt", "out/outputs.json"]
    assert (tmp_path / "work/out/a b_2.txt").read_text() == "2"


def test_index_lies_beside_its_file_and_literals_are_written(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    bam = make_file(workspace, "1/a.bam", "BAM")
    bam["secondaryFiles"] = [make_file(workspace, "1/a.bam.bai", "BAI")]
    literal = {"class": "File", "basename": "note.txt", "contents": "by an expression"}
    files = keep_outputs(workspace, {"bam": bam, "note": literal, "count": 3}).files
    assert files == ["out/a.bam", "out/a.bam.bai", "out/note.txt", "out/outputs.json"]
    assert (tmp_path / "work/out/note.txt").read_text() == "by an expression"


def test_an_index_has_the_name_of_its_file_among_files_of_one_name(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    bams = []
    for number in (1, 2):
        bam = make_file(workspace, f"{number}/a.bam", f"{number}")
        beside = ("a.bam.bai", "a.dict", "md5")
        bam["secondaryFiles"] = [make_file(workspace, f"{number}/{each}", "") for each in beside]
        bams.append(bam)
    files = keep_outputs(workspace, {"bams": bams}).files
    assert files[:4] == ["out/a.bam", "out/a.bam.bai", "out/a.dict", "out/md5"]
    assert files[4:8] == ["out/a_2.bam", "out/a_2.bam.bai", "out/a_2.dict", "out/md5_2"]


def test_directory_is_all_its_files(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    make_file(workspace, "1/folder/deep/a.txt", "a")
    folder = {"class": "Directory", "location": (workspace.work / "1/folder").as_uri()}
    literal = {
        "class": "Directory",
        "basename": "made",
        "listing": [make_file(workspace, "1/b.txt", "b")],
    }
    files = keep_outputs(workspace, {"real": folder, "literal": literal}).files
    assert files == ["out/folder/deep/a.txt", "out/made/b.txt", "out/outputs.json"]


def test_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    literal = {"class": "File", "basename": "../../escape", "contents": ""}
    assert keep_outputs(workspace, {"x": literal}).files[0] == "out/escape"


def test_file_that_differs_from_what_is_reported_is_a_problem(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    right = make_file(workspace, "1/right.txt", "same")
    right["checksum"] = f"sha1${hashlib.sha1(b'same').hexdigest()}"
    short = make_file(workspace, "1/short.txt", "less") | {"size": 5}
    other = make_file(workspace, "1/other.txt", "same") | {"checksum": "sha1$00"}
    problems = keep_outputs(workspace, {"all": [right, short, other]}).problems
    assert [problem.path for problem in problems] == ["out/short.txt", "out/other.txt"]
    assert "cwltool says 5" in problems[0].reason
    assert "cwltool says 00" in problems[1].reason


def test_file_from_elsewhere_is_copied(tmp_path: Path) -> None:
    """What lies outside the run may change later; what was published may not."""
    workspace = Workspace(tmp_path / "run")
    workspace.work.mkdir(parents=True)
    reference = tmp_path / "reference.fa"
    reference.write_text(">chr1\n")
    keep_outputs(workspace, {"x": {"class": "File", "location": reference.as_uri()}})
    assert not (workspace.work / "out/reference.fa").samefile(reference)
