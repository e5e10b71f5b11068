"""docs/wes.md has every tag, every version and the prefix."""

from pathlib import Path

from wesemu.api.wes.models import PREFIX, VERSIONS
from wesemu.runs.run_figures import FIGURE_TAGS

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "wes.md").read_text(encoding="utf-8")


def test_every_tag_and_version_has_its_place() -> None:
    assert [name for name in FIGURE_TAGS if f"`{name}`" not in PAGE] == []
    assert [name for name in VERSIONS if name not in PAGE] == []
    assert PREFIX in PAGE
