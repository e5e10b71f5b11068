"""stdout is data, stderr is talk. Neither has a control character from anywhere else."""

import sys
from collections.abc import Iterable, Sequence

import typer

from wesemu.cli.terminal import harmless, harmless_cell, harmless_json


def tell(text: str = "") -> None:
    """Talk to the person."""
    typer.echo(harmless(text), err=True)


def give(text: str) -> None:
    """One line of data."""
    typer.echo(harmless(text))


def give_json(value: object) -> None:
    """One JSON document as data, for programs and people."""
    typer.echo(harmless_json(value))


def give_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table in the boxes of Alibaba's `ags` command line, which scripts cut by `|`."""
    lines = [[harmless_cell(cell) for cell in row] for row in (headings, *rows)]
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    give(rule)
    for number, row in enumerate(lines):
        cells = (f" {cell:<{width}} " for cell, width in zip(row, widths, strict=True))
        give("|" + "|".join(cells) + "|")
        if number == 0:
            give(rule)
    give(rule)


def on_terminal() -> bool:
    """Whether the person watches the talk on a terminal."""
    return sys.stderr.isatty()
