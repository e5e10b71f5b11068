"""Tables of figures, targets and results."""

import json
from pathlib import Path

from benchmarks.report import Report, Row, at_least, at_most, figure, write_json


def test_targets_are_met_at_their_edge_and_missed_beyond() -> None:
    rows = [
        at_most("a", 0.25, 0.25, unit="s"),
        at_most("b", 0.26, 0.25, unit="s"),
        at_least("c", 10, 10, unit="x"),
        at_least("d", 9.99, 10, unit="x"),
    ]
    assert [row.met for row in rows] == [True, False, True, False]
    assert rows[0] == Row("a", "0.25 s", "≤ 0.25 s", met=True)
    assert rows[3].figure == "9.99x"


def test_a_table_in_markdown() -> None:
    report = Report("start", [at_most("cold", 1234.5, 1, unit="s"), figure("runs", 3, digits=0)])
    assert report.markdown().splitlines() == [
        "### start",
        "",
        "| what | figure | target | |",
        "|---|---|---|---|",
        "| cold | 1,234.50 s | ≤ 1.00 s | **missed** |",
        "| runs | 3 |  |  |",
    ]


def test_samples_are_kept_as_json(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    write_json(path, "2 cores", [Report("start", [figure("x", 1)], {"wall": (1.0, 2.0)})])
    told = json.loads(path.read_text())
    assert told["machine"] == "2 cores"
    assert told["benchmarks"][0]["samples"] == {"wall": [1.0, 2.0]}
    assert told["benchmarks"][0]["rows"] == [["x", "1.00", "", None]]
