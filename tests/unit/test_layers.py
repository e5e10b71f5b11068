"""Import contracts, ruff and mypy."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["lint-imports", "--no-cache"], id="imports go one way"),
        pytest.param(["ruff", "check", "."], id="ruff check"),
        pytest.param(["ruff", "format", "--check", "."], id="ruff format"),
        pytest.param(["mypy"], id="mypy strict"),
    ],
)
def test_house_rules(command: list[str]) -> None:
    program = Path(sys.executable).with_name(command[0])
    done = subprocess.run(
        [program, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


SNAKEFILES = [*ROOT.glob("pipelines/**/Snakefile"), *ROOT.glob("pipelines/**/*.smk")]


@pytest.mark.parametrize("file", SNAKEFILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_snakefiles_import_and_start_modules_that_exist(file: Path) -> None:
    """mypy and ruff do not read Snakefiles."""
    text = file.read_text()
    for imported in re.findall(r"^from wesemu\S* import (?:\([^)]*\)|.*)", text, re.MULTILINE):
        [statement] = ast.parse(imported).body
        assert isinstance(statement, ast.ImportFrom)
        module = import_module(str(statement.module))
        assert [name.name for name in statement.names if not hasattr(module, name.name)] == []
    programs = [f"wesemu.genomics.{name}" for name in re.findall(r'program\("(\w+)"\)', text)]
    for module_name in [*programs, *re.findall(r"-m (wesemu[\w.]*)", text)]:
        assert find_spec(module_name), module_name
