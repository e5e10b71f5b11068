"""docs/conformance.md has every check of the program; wesemu passes all."""

import re
from pathlib import Path

from wesemu.conformance.checks import CHECKS

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"


def test_the_table_has_every_check() -> None:
    rows = re.findall(r"^\| (`[\w.-]+` \| .+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    expected = []
    for check in CHECKS:
        section = (
            check.section if check.since == "0.3.0" else f"{check.section} (from {check.since})"
        )
        expected.append([f"`{check.id}`", section, check.level.value, check.title, "pass"])
    assert [row.split(" | ")[:5] for row in rows] == expected
