"""Results of a benchmark as a Markdown table and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table. `met` is None for a figure without a target."""

    what: str
    figure: str
    target: str = ""
    met: bool | None = None

    @property
    def verdict(self) -> str:
        return "" if self.met is None else "met" if self.met else "**missed**"


@dataclass(frozen=True, slots=True)
class Report:
    """The rows of one benchmark and their samples, one per round."""

    title: str
    rows: Sequence[Row]
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def markdown(self) -> str:
        lines = [f"### {self.title}", "", "| what | figure | target | |", "|---|---|---|---|"]
        lines += [
            f"| {row.what} | {row.figure} | {row.target} | {row.verdict} |" for row in self.rows
        ]
        return "\n".join(lines)


def at_most(what: str, value: float, limit: float, *, unit: str = "", digits: int = 2) -> Row:
    return Row(
        what, _format(value, unit, digits), f"≤ {_format(limit, unit, digits)}", value <= limit
    )


def at_least(what: str, value: float, limit: float, *, unit: str = "", digits: int = 2) -> Row:
    return Row(
        what, _format(value, unit, digits), f"≥ {_format(limit, unit, digits)}", value >= limit
    )


def figure(what: str, value: float, *, unit: str = "", digits: int = 2) -> Row:
    return Row(what, _format(value, unit, digits))


def _format(value: float, unit: str, digits: int) -> str:
    number = f"{value:,.{digits}f}"
    return f"{number}{unit}" if unit == "x" else f"{number} {unit}".rstrip()


def write_json(path: Path, machine: str, reports: Sequence[Report]) -> None:
    document = {
        "machine": machine,
        "benchmarks": [
            {
                "title": report.title,
                "rows": [[row.what, row.figure, row.target, row.met] for row in report.rows],
                "samples": {name: list(values) for name, values in report.samples.items()},
            }
            for report in reports
        ],
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
