"""Report duplicates in the form of `samtools markdup --json`, if another program marked them:
`python -m wesemu.genomics.parabricks.duplicates`.

Duplicates are counted by the flags of the BAM. Optical duplicates and the size of the library come
from the program's metrics (columns of Picard's DuplicationMetrics), as far as they can be parsed.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path


def duplicate_figures(flagstat: Mapping[str, Mapping[str, int]], metrics: str) -> dict[str, int]:
    """Return samtools markdup's figures, computed from flagstat's JSON and pbrun's metrics."""
    rows = _rows(metrics)
    optical = 2 * sum(_whole(row.get("READ_PAIR_OPTICAL_DUPLICATES")) for row in rows)
    size = _whole(rows[0].get("ESTIMATED_LIBRARY_SIZE")) if len(rows) == 1 else 0
    return {
        "EXAMINED": sum(part["primary mapped"] for part in flagstat.values()),
        "DUPLICATE PAIR OPTICAL": optical,
        "DUPLICATE SINGLE OPTICAL": 0,
        "DUPLICATE TOTAL": sum(part["primary duplicates"] for part in flagstat.values()),
        "ESTIMATED_LIBRARY_SIZE": size,
    }


def _rows(metrics: str) -> list[dict[str, str]]:
    """Return the rows of libraries: from the line of column names to a blank line."""
    lines = metrics.splitlines()
    names = next((line for line in lines if line.startswith("LIBRARY\t")), None)
    if names is None:
        return []
    rows = []
    for line in lines[lines.index(names) + 1 :]:
        if not line.strip():
            break
        rows.append(dict(zip(names.split("\t"), line.split("\t"), strict=False)))
    return rows


def _whole(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flagstat", type=Path, required=True, help="JSON of samtools")
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(argv)
    figures = duplicate_figures(
        json.loads(arguments.flagstat.read_text()), arguments.metrics.read_text(errors="replace")
    )
    arguments.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
