"""The compatibility page names tests that exist, and everything that exists."""

import re
from pathlib import Path

from wesemu.api.wes.models import PREFIX, VERSIONS
from wesemu.runs.sla import NAMES

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "wes.md").read_text()
FOLDERS = ("api/inputs", "api/wes", "conformance/wes", "e2e", "pipelines", "unit")


def test_every_named_test_exists() -> None:
    written = "".join(
        path.read_text()
        for folder in FOLDERS
        for path in (ROOT / "tests" / folder).rglob("test_*.py")
    )
    existing = set(re.findall(r"def (test_\w+)\(", written))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert named
    assert named - existing == set()


def test_every_row_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    body = [
        row for row in rows if not row.startswith("|---") and not row.rstrip(" |").endswith("Test")
    ]
    assert [row for row in body if "`test_" not in row] == []


def test_every_tag_and_version_has_its_place() -> None:
    assert [name for name in NAMES if f"`{name}`" not in PAGE] == []
    assert [name for name in VERSIONS if name not in PAGE] == []
    assert PREFIX in PAGE
