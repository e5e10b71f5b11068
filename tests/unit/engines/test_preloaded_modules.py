"""Modules and Snakefiles that the forkserver loads for bundled pipelines."""

import inspect
import io
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wesemu.composition import PIPELINES_IMPORT
from wesemu.engines.forkserver import ParsedSnakefiles

PIPELINES = Path(__file__).parents[3] / "pipelines"
SNAKEFILES = [*PIPELINES.rglob("Snakefile"), *PIPELINES.rglob("*.smk")]


def test_modules_that_the_pipelines_import_are_imported_ahead() -> None:
    imports = re.compile(r"^\s*(?:from|import) (wesemu[\w.]*)", re.MULTILINE)
    imported = {name for file in SNAKEFILES for name in imports.findall(file.read_text())}
    assert imported == set(PIPELINES_IMPORT)


SERVER_LIBRARIES = {"aiohttp", "aiosqlite", "structlog", "pydantic", "WDL", "cwltool", "snakemake"}


@pytest.mark.parametrize(
    "module",
    [
        "wesemu.engines.main",
        "wesemu.engines.leases",
        "wesemu.engines.forkserver",
        "wesemu.engines.snakemake.cli_worker",
        "wesemu.engines.cwl.worker",
        "wesemu.engines.wdl.worker",
    ],
)
def test_a_run_process_imports_neither_the_server_nor_an_engine_when_it_starts(module: str) -> None:
    """They would cost each run time and memory; engines are imported by the forked worker."""
    program = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True
    )
    assert "psutil" in done.stdout.split() or module == "wesemu.engines.leases"
    assert SERVER_LIBRARIES.isdisjoint(done.stdout.split())


def parse_with(parse: Any, text: str, rulecount: int) -> tuple[Any, dict[int, int]]:
    """Return the result of `parse` for a file with this text, and its line map."""
    sources = import_module("snakemake.sourcecache")
    path = sources.LocalSourceFile("/runs/it's/Snakefile")
    cache = SimpleNamespace(open=lambda path: io.StringIO(text))
    linemap: dict[int, int] = {}
    workflow = SimpleNamespace(sourcecache=cache)
    return parse(path, workflow, rulecount=rulecount, linemap=linemap), linemap


def test_snakefiles_are_parsed_ahead_as_snakemake_parses_them() -> None:
    import_module("snakemake.api")  # the other modules cannot be imported before it
    parse = import_module("snakemake.parser").parse
    ahead = ParsedSnakefiles(SNAKEFILES)
    for text in [*(file.read_text() for file in SNAKEFILES), "rule:\n    output: 'x'\n"]:
        assert parse_with(ahead.parse, text, 7) == parse_with(parse, text, 7)


def test_snakemake_parses_a_snakefile_when_it_includes_it() -> None:
    import_module("snakemake.api")
    include = inspect.getsource(import_module("snakemake.workflow").Workflow.include)
    call = "parse(\n            snakefile,\n            self,\n            rulecount="
    assert call in include
