"""Helpers for tests of the pipelines: stand-ins for tools, and the schema of summaries."""

import json
import sys
from pathlib import Path

import jsonschema
import yaml

STAND_INS = Path(__file__).parents[1] / "pipelines" / "stand_ins"
COMMANDS = {
    "gatk": ("gatk.py", "4.5.0.0"),
    "deepvariant": ("run_deepvariant.py", "1.6.1"),
    "bwa-mem2": ("bwa_mem2.py", "2.2.1"),
}


def stand_in(tool: str) -> dict[str, object]:
    return {"tools": {tool: f"{sys.executable} {STAND_INS / COMMANDS[tool][0]}"}}


def check_summary(snakefile: Path, results: Path) -> dict:
    """Validate the summary against its schema and return it."""
    schemas = snakefile.parents[2] / "mapping" / "workflow" / "schemas"
    summary = json.loads((results / "summary.json").read_text())
    schema = yaml.safe_load((schemas / "summary.schema.yaml").read_text())
    jsonschema.validate(summary, schema)
    return summary
