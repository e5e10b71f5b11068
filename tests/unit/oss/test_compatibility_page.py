"""docs/oss.md names tests as proofs; they exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PROOF = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def test_every_proof_that_the_page_names_exists() -> None:
    named = set(PROOF.findall((ROOT / "docs" / "oss.md").read_text()))
    assert len(named) > 40
    missing = [
        f"{file}::{test}"
        for file, test in sorted(named)
        if f"def {test}(" not in (ROOT / "tests" / file).read_text()
    ]
    assert missing == []
