"""The warm process has imported what the bundled Snakefiles import."""

import re
from pathlib import Path

from wesemu.composition import PIPELINES_IMPORT

PIPELINES = Path(__file__).parents[3] / "pipelines"


def test_modules_that_the_pipelines_import_are_imported_ahead() -> None:
    rules = [*PIPELINES.rglob("Snakefile"), *PIPELINES.rglob("*.smk")]
    imports = re.compile(r"^\s*(?:from|import) (wesemu[\w.]*)", re.MULTILINE)
    imported = {name for file in rules for name in imports.findall(file.read_text())}
    assert imported == set(PIPELINES_IMPORT)
