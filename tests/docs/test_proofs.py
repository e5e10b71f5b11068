"""docs/proofs.md: the tests of the statements on the other pages.

`proofs.toml` is the source: page, section, statement, tests. A statement is the first cell of a
table's row, or a sentence about the section. `python tests/docs/test_proofs.py` writes the page.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGE = DOCS / "proofs.md"
PROOFS: dict[str, dict[str, dict[str, list[str]]]] = tomllib.loads(
    Path(__file__).with_name("proofs.toml").read_text(encoding="utf-8")
)
# Every row of every table of these pages needs a proof, except in these sections.
COMPLETE = {
    "ags.md": set[str](),
    "oss.md": set[str](),
    "wes.md": set[str](),
    "inputs.md": {"Settings", "Tags of a run", "Remote buckets"},
}
PAGES = [*ROOT.glob("*.md"), *DOCS.glob("**/*.md"), *ROOT.glob("benchmarks/*.md")]
NAMED = re.compile(r"`(?:tests/)?([\w/.-]*test_\w+\.py)(?:::(\w+))?`")
INTRODUCTION = """\
# What is tested where

This page lists the tests that prove the statements of the other pages. A test is `file::name`
below `tests/`; a file alone means all its tests. `python tests/docs/test_proofs.py` generates this
page from `tests/docs/proofs.toml`. Tests check that it is up to date, that every test exists, and
that every row of the tables in [ags.md](ags.md), [oss.md](oss.md), [inputs.md](inputs.md) and
[wes.md](wes.md) has a proof.
"""


def generate() -> str:
    """Return the text of docs/proofs.md."""
    lines = [INTRODUCTION]
    for page, sections in PROOFS.items():
        lines += [f"## {page}", "", "| section | statement | test |", "|---|---|---|"]
        for section, statements in sections.items():
            for statement, tests in statements.items():
                names = "<br>".join(f"`{test}`" for test in tests)
                lines.append(f"| {section} | {statement} | {names} |")
        lines.append("")
    return "\n".join(lines)


def rows(page: str) -> Iterator[tuple[str, str]]:
    """Yield the section and the first cell of each row of the tables of a page."""
    section = above = ""
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            section = line.lstrip("# ")
        elif line.startswith("|") and above.startswith("|") and not line.startswith("|--"):
            yield section, line.removeprefix("| ").split(" | ")[0]
        above = line


@cache
def functions_of(file: Path) -> frozenset[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return frozenset(node.name for node in nodes if isinstance(node, kinds))


def exists(file: str, test: str) -> bool:
    path = ROOT / "tests" / file
    return path.is_file() and (not test or test in functions_of(path))


def test_the_page_is_generated_from_the_list() -> None:
    assert PAGE.read_text(encoding="utf-8") == generate(), "run tests/docs/test_proofs.py"


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    named = NAMED.findall(page.read_text(encoding="utf-8"))
    assert [each for each in named if not exists(*each)] == []


@pytest.mark.parametrize("page", COMPLETE)
def test_every_row_of_a_compatibility_table_has_its_proof(page: str) -> None:
    proved = {(section, text) for section, each in PROOFS[page].items() for text in each}
    wanted = [row for row in rows(page) if row[0] not in COMPLETE[page]]
    assert len(wanted) > 10
    assert [row for row in wanted if row not in proved] == []


@pytest.mark.parametrize("page", PROOFS)
def test_every_section_exists_and_every_statement_has_a_test(page: str) -> None:
    headings = re.findall(r"^#+ (.+)$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert [section for section in PROOFS[page] if section not in headings] == []
    statements = [item for each in PROOFS[page].values() for item in each.items()]
    assert [statement for statement, tests in statements if not tests] == []


@pytest.mark.parametrize("page", PROOFS)
def test_pages_for_users_name_no_tests(page: str) -> None:
    assert NAMED.findall((DOCS / page).read_text(encoding="utf-8")) == []


if __name__ == "__main__":
    PAGE.write_text(generate(), encoding="utf-8")
