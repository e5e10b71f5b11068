"""Plots of the reports of samtools and bcftools, as SVG in a box of 600 by 200 units.

A plot is JSON: `title`, `x` and `y` (axis labels), `ticks` (texts below the x axis, with their
place `at`), `top` (end of the y axis, which begins at 0), and either `path` (SVG, a line) or `bars`
(`at`, `width`, `height`, `label`, `value`). A row that is not a figure is left out: a tool may be
writing the report just now.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TypeVar

from wesemu.dashboard.pages import count
from wesemu.runs.model import JsonObject, JsonValue

WIDTH, HEIGHT = 600, 200

Points = list[tuple[float, float]]
Columns = list[Sequence[str]]
T = TypeVar("T")

_MOST_CONTIGS = 30
_MOST_LABELS = 14
"""With more bars, their labels would not fit below them."""

_LEAST_WIDTH = 1.0
_GAP = 0.15
"""Share of a bar's place that stays empty."""


def of_stats(text: str) -> list[JsonValue]:
    """Return the plots for the output of `samtools stats`; sections without data have none."""
    rows = _sections(text)
    lines = (
        _line(title, x, y, _read(rows.get(section, []), point))
        for section, title, x, y, point in _STATS
    )
    return [plot for plot in (_reads(rows.get("SN", [])), *lines) if plot is not None]


def of_idxstats(text: str) -> list[JsonValue]:
    """Return the reads for each 1,000 bases of the longest contigs, in the reference's order."""
    rows = _read([line.split("\t") for line in text.splitlines()], _contig)
    longest = sorted((row for row in rows if row[1] > 0), key=lambda row: -row[1])[:_MOST_CONTIGS]
    shown = [row for row in rows if row in longest]
    bars = [(name, round(1000 * mapped / length, 2)) for name, length, mapped in shown]
    plot = _bars("Reads by contig", "contig", "mapped reads per kb", bars)
    return [] if plot is None else [plot]


def of_variants(text: str) -> list[JsonValue]:
    """Return the plots for the output of `bcftools stats -s -` of one sample."""
    rows = _sections(text)
    substitutions = _read(rows.get("ST", []), lambda row: (row[1], float(row[2])))
    ratio = next((row[3] for row in rows.get("TSTV", []) if len(row) > 3), None)
    title = "Substitutions" if ratio is None else f"Substitutions, Ti/Tv {ratio}"
    lengths = _read(rows.get("IDD", []), lambda row: (float(row[1]), float(row[2])))
    balance = rows.get("VAF", [])
    plots = [
        _bars(title, "substitution", "SNPs", substitutions),
        _histogram("Lengths of indels (deletions negative)", "base pairs", "sites", lengths),
        _histogram(
            "Allele balance of SNPs", "percent of reads with the allele", "SNPs", _vaf(balance, 2)
        ),
        _histogram(
            "Allele balance of indels",
            "percent of reads with the allele",
            "indels",
            _vaf(balance, 3),
        ),
        _line(
            "Depth of calls",
            "depth",
            "calls",
            _read(rows.get("DP", []), lambda row: (float(row[1]), float(row[4]))),
        ),
    ]
    return [plot for plot in plots if plot is not None]


def _sections(text: str) -> dict[str, Columns]:
    rows: dict[str, Columns] = {}
    for line in text.splitlines():
        name, *columns = line.split("\t")
        if columns and not name.startswith("#"):
            rows.setdefault(name, []).append(columns)
    return rows


def _read(rows: Iterable[Sequence[str]], parse: Callable[[Sequence[str]], T]) -> list[T]:
    parsed: list[T] = []
    for row in rows:
        try:
            parsed.append(parse(row))
        except (ValueError, IndexError):
            continue
    return parsed


def _second(row: Sequence[str]) -> tuple[float, float]:
    return float(row[0]), float(row[1])


def _mean_quality(row: Sequence[str]) -> tuple[float, float]:
    """Return cycle and mean quality: column n of FFQ and LFQ counts the bases of quality n."""
    counts = [float(number) for number in row[1:]]
    total = sum(counts)
    mean = sum(quality * number for quality, number in enumerate(counts)) / total if total else 0.0
    return float(row[0]), mean


def _depth(row: Sequence[str]) -> tuple[float, float]:
    """Return depth and number of positions; the first column of COV is the range of depths."""
    return float(row[1]), float(row[2])


def _contig(row: Sequence[str]) -> tuple[str, int, int]:
    return row[0], int(row[1]), int(row[2])


_STATS = (
    ("COV", "Coverage", "depth", "positions", _depth),
    ("IS", "Insert size", "base pairs", "pairs", _second),
    ("FFQ", "Quality of first mates", "cycle", "mean quality", _mean_quality),
    ("LFQ", "Quality of second mates", "cycle", "mean quality", _mean_quality),
    ("GCF", "GC content of first mates", "percent", "reads", _second),
    ("GCL", "GC content of second mates", "percent", "reads", _second),
)
"""Section of samtools stats, title, axis labels, and the function that reads a row as a point."""


def _reads(summary: Iterable[Sequence[str]]) -> JsonObject | None:
    """Plot how many reads are duplicates and unmapped."""
    numbers = dict(_read(summary, lambda row: (row[0].rstrip(":"), float(row[1]))))
    mapped, duplicates = numbers.get("reads mapped"), numbers.get("reads duplicated")
    if mapped is None or duplicates is None:
        return None
    bars = [
        ("mapped, no duplicates", mapped - duplicates),
        ("duplicates", duplicates),
        ("unmapped", numbers.get("reads unmapped", 0.0)),
    ]
    share = f", {100 * duplicates / mapped:.1f} % duplicates" if mapped else ""
    return _bars(f"Reads{share}", "", "reads", bars)


def _vaf(rows: Iterable[Sequence[str]], column: int) -> Points:
    """Return percent and number: the bins of VAF are equally wide, from 0 to 100 percent."""
    for row in rows:
        bins = _read([[number] for number in row[column].split(",")], lambda each: float(each[0]))
        if len(bins) > 1:
            step = 100 / (len(bins) - 1)
            return [(number * step, value) for number, value in enumerate(bins)]
    return []


def _line(title: str, x: str, y: str, points: Points) -> JsonObject | None:
    shown = _trimmed(points)
    if not any(value for _, value in shown):
        return None
    left, right = min(place for place, _ in shown), max(place for place, _ in shown)
    top = max(value for _, value in shown)
    return _plot(title, x, y, top, _ends(left, right)) | {"path": _path(shown, left, right, top)}


def _histogram(title: str, x: str, y: str, points: Points) -> JsonObject | None:
    """Plot values at numbers as bars; the axis is symmetric if there are negative numbers."""
    if not any(value for _, value in points):
        return None
    left, right = min(place for place, _ in points), max(place for place, _ in points)
    if left < 0:
        left, right = min(left, -right), max(right, -left)
    places = sorted(place for place, _ in points)
    step = min((after - before for before, after in pairwise(places)), default=1)
    width = WIDTH / ((right - left) / step + 1)
    top = max(value for _, value in points)
    bars = [
        _bar((place - left) / step * width, width, value, top, f"{place:g}")
        for place, value in points
    ]
    return _plot(title, x, y, top, _ends(left, right)) | {"bars": bars}


def _bars(title: str, x: str, y: str, values: Sequence[tuple[str, float]]) -> JsonObject | None:
    """Plot named values as bars."""
    if not any(value for _, value in values):
        return None
    top = max(value for _, value in values)
    width = WIDTH / len(values)
    bars = [
        _bar(number * width, width, value, top, label)
        for number, (label, value) in enumerate(values)
    ]
    ticks: list[JsonValue] = []
    if len(values) <= _MOST_LABELS:
        ticks = [
            {"text": label, "at": round((number + 0.5) * width, 1), "anchor": "middle"}
            for number, (label, _) in enumerate(values)
        ]
    return _plot(title, x, y, top, ticks) | {"bars": bars}


def _plot(title: str, x: str, y: str, top: float, ticks: list[JsonValue]) -> JsonObject:
    return {"title": title, "x": x, "y": y, "top": top, "ticks": ticks, "path": None, "bars": []}


def _bar(at: float, width: float, value: float, top: float, label: str) -> JsonValue:
    return {
        "at": round(at + width * _GAP / 2, 1),
        "width": max(round(width * (1 - _GAP), 1), _LEAST_WIDTH),
        "height": round(value / top * HEIGHT, 1),
        "label": label,
        "value": value,
    }


def _ends(left: float, right: float) -> list[JsonValue]:
    return [
        {"text": count(left), "at": 0, "anchor": "start"},
        {"text": count(right), "at": WIDTH, "anchor": "end"},
    ]


def _trimmed(points: Points) -> Points:
    """Return the first points that hold 99.9 % of the sum. A long tail would hide the rest."""
    total = sum(value for _, value in points)
    kept: Points = []
    seen = 0.0
    for place, value in points:
        kept.append((place, value))
        seen += value
        if seen > 0.999 * total:
            break
    return kept


def _path(points: Points, left: float, right: float, top: float) -> str:
    across = WIDTH / (right - left) if right > left else 0.0
    steps = [f"{(x - left) * across:.1f},{HEIGHT - y / top * HEIGHT:.1f}" for x, y in points]
    return "M" + "L".join(steps)
