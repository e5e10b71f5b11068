"""The warm process has imported what the bundled Snakefiles import."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from wesemu.composition import PIPELINES_IMPORT

PIPELINES = Path(__file__).parents[3] / "pipelines"


def test_modules_that_the_pipelines_import_are_imported_ahead() -> None:
    rules = [*PIPELINES.rglob("Snakefile"), *PIPELINES.rglob("*.smk")]
    imports = re.compile(r"^\s*(?:from|import) (wesemu[\w.]*)", re.MULTILINE)
    imported = {name for file in rules for name in imports.findall(file.read_text())}
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
