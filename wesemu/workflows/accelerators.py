"""Whether a bundled pipeline can use GPUs: its configuration's schema says so."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

_SCHEMA = "workflow/schemas/config.schema.yaml"
_KEY = "accelerator"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def hindrance(pipeline: Path) -> str | None:
    """Why the pipeline in that folder has no use for a GPU; None where it takes an accelerator."""
    if any(_KEY in schema.get("properties", {}) for schema in _schemas(pipeline / _SCHEMA)):
        return None
    return f"the pipeline {pipeline.name} has no steps for GPUs: the CPU does them"


def _schemas(path: Path) -> Iterator[dict[str, Any]]:
    """The schema and those that it refers to as a whole."""
    schema: dict[str, Any] = yaml.load(path.read_text(), Loader=_LOADER)  # noqa: S506  # a safe one
    yield schema
    for part in schema.get("allOf", []):
        if isinstance(reference := part.get("$ref"), str):
            yield from _schemas(path.parent / reference)
