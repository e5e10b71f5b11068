"""A run's standing in the queue for leases, as JSON in the order for its process."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from wesemu.runs.ports import Standing


def standing_to_json(standing: Standing | None) -> dict[str, Any] | None:
    if standing is None:
        return None
    return {**asdict(standing), "folder": str(standing.folder.absolute())}


def standing_from_json(values: dict[str, Any] | None) -> Standing | None:
    if values is None:
        return None
    return Standing(**{**values, "folder": Path(values["folder"])})
