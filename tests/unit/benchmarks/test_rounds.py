"""Methods are measured alternately."""

import pytest

from benchmarks import rounds
from benchmarks.rounds import in_turns


def test_every_round_does_every_way_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_SETTLE_SECONDS", 0)
    done: list[str] = []
    found = in_turns({"a": lambda: done.append("a"), "b": lambda: done.append("b")}, 2, warm_up=1)
    assert done == ["a", "b"] * 3
    assert {name: len(samples.wall) for name, samples in found.items()} == {"a": 2, "b": 2}
    assert all(seconds >= 0 for samples in found.values() for seconds in samples.cpu)
