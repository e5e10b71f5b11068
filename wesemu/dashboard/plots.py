"""Plots of `samtools stats` as SVG paths: insert size, quality by cycle, coverage, GC content.

A plot is JSON: `title`, `x` and `y` (axis labels), `least` and `most` (ends of the x axis), `top`
(end of the y axis, which begins at 0), and `path` (SVG, in a box of 600 by 200 units).
"""

from collections.abc import Sequence

from wesemu.runs.model import JsonValue

WIDTH, HEIGHT = 600, 200

Points = list[tuple[float, float]]


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


_SECTIONS = (
    ("COV", "Coverage", "depth", "positions", _depth),
    ("IS", "Insert size", "base pairs", "pairs", _second),
    ("FFQ", "Quality of first mates", "cycle", "mean quality", _mean_quality),
    ("LFQ", "Quality of second mates", "cycle", "mean quality", _mean_quality),
    ("GCF", "GC content of first mates", "percent", "reads", _second),
    ("GCL", "GC content of second mates", "percent", "reads", _second),
)
"""Section of samtools stats, title, axis labels, and the function that reads a row as a point."""


def of_stats(text: str) -> list[JsonValue]:
    """Return the plots for the output of `samtools stats`; sections without data have none."""
    rows: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        name, *columns = line.split("\t")
        if columns and not name.startswith("#"):
            rows.setdefault(name, []).append(columns)
    plots = (
        _plot(title, x, y, [read(row) for row in rows.get(section, [])])
        for section, title, x, y, read in _SECTIONS
    )
    return [plot for plot in plots if plot is not None]


def _plot(title: str, x: str, y: str, points: Points) -> JsonValue:
    shown = _trimmed(points)
    if not any(value for _, value in shown):
        return None
    left, right = min(place for place, _ in shown), max(place for place, _ in shown)
    top = max(value for _, value in shown)
    return {
        "title": title,
        "x": x,
        "y": y,
        "least": left,
        "most": right,
        "top": top,
        "path": _path(shown, left, right, top),
    }


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
