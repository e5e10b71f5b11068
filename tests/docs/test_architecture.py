"""docs/architecture.md and CONTRIBUTING.md name files and functions that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
STEPS = re.findall(r"^\| `([\w/]+\.py)` \| (.+?) \|", PAGE, re.MULTILINE)
PATHS = re.compile(r"`((?:wesemu|tests|docs|pipelines|benchmarks)/[\w./-]*)`")


def test_the_page_has_steps() -> None:
    assert len(STEPS) > 20


@pytest.mark.parametrize(("file", "functions"), STEPS)
def test_every_step_names_functions_of_its_file(file: str, functions: str) -> None:
    tree = ast.parse((ROOT / "wesemu" / file).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    defined = {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
    assert set(re.findall(r"`(\w+)`", functions)) - defined == set()


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "THREAT_MODEL.md"])
def test_every_path_that_a_page_names_exists(page: str) -> None:
    named = set(PATHS.findall((ROOT / page).read_text(encoding="utf-8")))
    assert named
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_every_other_path_of_the_page_exists() -> None:
    paths = re.findall(r"`((?:api|runs|workflows|engines|storage)/[\w/]+(?:\.py)?)`", PAGE)
    files = [path for path in paths if path.endswith(".py")]
    assert [path for path in files if not (ROOT / "wesemu" / path).is_file()] == []
