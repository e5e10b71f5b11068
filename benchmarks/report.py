"""Results of a benchmark as a Markdown table and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table. `met` is None for a figure without a target.

    `others` are the figures of further columns.
    """

    what: str
    figure: str
    target: str = ""
    met: bool | None = None
    others: Sequence[str] = ()

    @property
    def verdict(self) -> str:
        return "" if self.met is None else "met" if self.met else "**missed**"

    def markdown(self) -> str:
        cells = [self.what, self.figure, *self.others, self.target, self.verdict]
        return f"| {' | '.join(cells)} |"


@dataclass(frozen=True, slots=True)
class Report:
    """The rows of one benchmark and their samples, one per round.

    `columns` are the names of a row's figures. `notes` are sentences below the table.
    """

    title: str
    rows: Sequence[Row]
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    columns: Sequence[str] = ("figure",)
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        head = ["what", *self.columns, "target", "|"]
        lines = [f"### {self.title}", "", f"| {' | '.join(head)}", "|---" * len(head) + "|"]
        lines += [row.markdown() for row in self.rows]
        lines += [""] if self.notes else []
        return "\n".join([*lines, *(f"- {note}" for note in self.notes)])


def at_most(what: str, value: float, limit: float, *, unit: str = "", digits: int = 2) -> Row:
    return Row(
        what,
        format_figure(value, unit, digits),
        f"≤ {format_figure(limit, unit, digits)}",
        value <= limit,
    )


def at_least(what: str, value: float, limit: float, *, unit: str = "", digits: int = 2) -> Row:
    return Row(
        what,
        format_figure(value, unit, digits),
        f"≥ {format_figure(limit, unit, digits)}",
        value >= limit,
    )


def figure(what: str, value: float, *, unit: str = "", digits: int = 2) -> Row:
    return Row(what, format_figure(value, unit, digits))


def format_figure(value: float, unit: str = "", digits: int = 2) -> str:
    number = f"{value:,.{digits}f}"
    return f"{number}{unit}" if unit == "x" else f"{number} {unit}".rstrip()


def write_json(path: Path, machine: str, reports: Sequence[Report]) -> None:
    document = {
        "machine": machine,
        "benchmarks": [
            {
                "title": report.title,
                "columns": list(report.columns),
                "rows": [
                    [row.what, row.figure, *row.others, row.target, row.met] for row in report.rows
                ],
                "notes": list(report.notes),
                "samples": {name: list(values) for name, values in report.samples.items()},
            }
            for report in reports
        ],
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
