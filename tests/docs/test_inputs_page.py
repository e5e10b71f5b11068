"""docs/inputs.md has every setting with its default."""

from pathlib import Path

from wesemu.storage.remote import RemoteBucketSettings
from wesemu.workflows.locations import InputSettings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "inputs.md").read_text(encoding="utf-8")


def test_every_setting_is_on_the_page() -> None:
    names = [f"`inputs.{name}`" for name in InputSettings.model_fields]
    names += [f"`{name}`" for name in RemoteBucketSettings.model_fields]
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    assert [name for name in names if not any(name in row for row in rows)] == []


def test_the_defaults_are_the_page_s() -> None:
    for name, field in InputSettings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "`[]`" if default == [] else str(default).lower()
        assert f"| `inputs.{name}` | {shown} |" in PAGE
