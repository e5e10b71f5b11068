"""docs/settings.md: all settings. `python tests/docs/test_settings_page.py` writes the page."""

from pathlib import Path

import pytest

from wesemu.settings.describe import SettingDescription, groups

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
INTRODUCTION = """\
# Settings

Flags override `WESEMU_*` variables; variables override the file; the file overrides the defaults.
The file is `wesemu.toml` in the current folder, or that of `--config` or of the variable
`WESEMU_CONFIG`. In a variable, two underscores separate the parts of a name, and lists and tables
are JSON: `node.cores` is `WESEMU_NODE__CORES`, and `WESEMU_AUTH__TOKENS='{"secret": "alice"}'`.
`wesemu config init` writes a file with all settings, `wesemu config show` shows the values in use,
`wesemu config explain KEY` explains one.

`python tests/docs/test_settings_page.py` generates this page from the declarations of the settings.
"""
SETTINGS = [setting for group in groups() for setting in group.settings]


def generate() -> str:
    """Return the text of docs/settings.md."""
    lines = [INTRODUCTION]
    for group in groups():
        if group.name:
            lines += [f"## {group.name}", "", group.meaning, ""]
        lines += ["| setting | values | default | meaning |", "|---|---|---|---|"]
        lines += [row(setting) for setting in group.settings]
        lines.append("")
    return "\n".join(lines)


def row(setting: SettingDescription) -> str:
    default = f"`{setting.default}`" if setting.default else ""
    cells = (f"`{setting.key}`", setting.values, default, setting.meaning)
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == generate()


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_every_setting_has_a_meaning(setting: SettingDescription) -> None:
    assert setting.meaning.endswith(".")


if __name__ == "__main__":
    PAGE.write_text(generate(), encoding="utf-8")
