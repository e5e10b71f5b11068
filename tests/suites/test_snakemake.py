"""Workflows run here as in Snakemake itself: the same files, the same success."""

import hashlib
import json
import os
from pathlib import Path
from textwrap import dedent

import pytest
from suites.snakemake_cases import CASES, Case
from support.live_server import LiveServer, live_server_fixture
from support.preloaded_program import PreloadedProgram

_OWN = (".snakemake", ".config.json", "__pycache__", ".cache", ".config")
"""What engines and Python leave beside a workflow's files."""


server = live_server_fixture()


def files_of(folder: Path, case: Case) -> dict[str, str]:
    """The files below, each with its hash; "" for those that differ from run to run."""
    found = dict[str, str]()
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or any(part in _OWN for part in Path(name).parts):
            continue
        content = path.read_bytes()
        found[name] = "" if name in case.unstable else hashlib.sha256(content).hexdigest()
    return found


def plainly(snakemake: PreloadedProgram, case: Case, folder: Path) -> tuple[bool, dict[str, str]]:
    """Whether plain Snakemake succeeds, and the files that it leaves."""
    for name, text in {"Snakefile": dedent(case.snakefile).lstrip(), **case.files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        if text.startswith("#!"):
            (folder / name).chmod(0o755)
    (folder / ".config.json").write_text(json.dumps(dict(case.params)))
    flags = ("--latency-wait", "5", *case.flags)
    configured = ("--configfile", ".config.json") if case.params else ()
    done = snakemake.run(
        ["--cores", "2", *configured, *flags],
        cwd=folder,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / ".cache")},
    )
    return done.returncode == 0, files_of(folder, case)


@pytest.mark.parametrize("name", CASES)
def test_the_server_does_as_snakemake_does(
    server: LiveServer, plain_snakemake: PreloadedProgram, tmp_path: Path, name: str
) -> None:
    case = CASES[name]
    for module in case.needs:
        pytest.importorskip(module, reason="needs the extra workflows")
    succeeded, files = plainly(plain_snakemake, case, tmp_path)
    run = server.run("SMK", case.snakefile, case.files, params=case.params, engine=case.engine)
    assert (run.state == "COMPLETE") is succeeded, run.log("stderr")
    assert run.state in ("COMPLETE", "EXECUTOR_ERROR")
    assert files_of(run.folder / "work", case) == files
    if not succeeded:
        assert run.error["message"]


def test_a_dry_run_executes_attached_scripts(server: LiveServer) -> None:
    case = CASES["script_that_sets_up"]
    engine = {**case.engine, "dry_run": "true"}
    answer = server.post("SMK", case.snakefile, case.files, engine=engine)
    assert answer.ok, answer.text
    assert answer.json()["wesemu"]["graph"]["counts"] == {"copy": 1}
