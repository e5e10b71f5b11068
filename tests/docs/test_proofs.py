"""What the pages call a proof exists: every `file::test` is a test of that file, below tests/."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")]
PROOF = re.compile(r"`([\w/.-]+\.py)::(\w+)`")


@cache
def names_in(file: Path) -> frozenset[str]:
    if not file.is_file():
        return frozenset()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, functions) and node.name.startswith("test_")
    )


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    named = PROOF.findall(page.read_text(encoding="utf-8"))
    missing = [
        f"{file}::{test}"
        for file, test in named
        if test not in names_in(ROOT / "tests" / file.removeprefix("tests/"))
    ]
    assert missing == []


@pytest.mark.parametrize("name", ["ags", "oss", "inputs"])
def test_every_row_of_a_compatibility_table_names_its_proof(name: str) -> None:
    lines = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8").splitlines()
    proved, met = False, 0
    bare = []
    for line in lines:
        if not line.startswith("|"):
            proved = False
        elif line.endswith("| proved by |"):
            proved, met = True, met + 1
        elif proved and set(line) > set("|-") and not PROOF.search(line.rpartition("| ")[2]):
            bare.append(line)
    assert met
    assert bare == []
