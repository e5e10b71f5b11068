"""docs/cli.md has every verb, every flag and every exit status; commands on pages are valid."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from wesemu.cli.app import build
from wesemu.cli.output import ExitStatus

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


def verbs() -> Iterator[tuple[str, Any]]:
    """`wesemu reference add` and its command, for all of them."""

    def below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name, command
        else:
            for word, each in inner.items():
                yield from below(f"{name} {word}", each)

    return below("wesemu", typer.main.get_command(build()))


VERBS = dict(verbs())


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/cli.md has no heading '## {title}'"
    return found[1]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_heading_and_all_its_flags(verb: str) -> None:
    text = section(verb)
    for parameter in VERBS[verb].params:
        if parameter.param_type_name == "option" and "--help" not in parameter.opts:
            for flag in (*parameter.opts, *parameter.secondary_opts):
                assert flag in text, f"{flag} is not in the section of {verb}"


@pytest.mark.parametrize("verb", VERBS)
def test_every_flag_of_the_page_exists(verb: str) -> None:
    known = {"--help"}
    for parameter in VERBS[verb].params:
        known |= {*parameter.opts, *parameter.secondary_opts}
    usage = section(verb).strip().splitlines()[0]
    assert usage.startswith(f"`{verb}")
    assert set(re.findall(r"--[a-z][a-z0-9-]+", usage)) <= known


def test_every_heading_is_a_verb() -> None:
    assert set(re.findall(r"^## (wesemu .+)$", PAGE, re.MULTILINE)) == set(VERBS)


@pytest.mark.parametrize("status", list(ExitStatus))
def test_every_exit_status_is_in_the_table(status: ExitStatus) -> None:
    assert f"\n| {status.value} |" in section("Exit statuses")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_tells_what_it_does(verb: str) -> None:
    assert VERBS[verb].help


TEMPLATES = Path(__file__).parents[2] / "wesemu" / "dashboard" / "templates"


def commands_of_pages() -> list[str]:
    """The complete commands in the `<pre>` elements of the dashboard's templates."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(TEMPLATES.glob("*.html"))]
    blocks = re.findall(r"<pre[^>]*>(.*?)</pre>", "\n".join(texts), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("wesemu ") and "{" not in line]


def test_every_command_of_a_page_is_valid() -> None:
    lines = commands_of_pages()
    assert len(lines) >= 3
    for line in lines:
        command, words = typer.main.get_command(build()), shlex.split(line)[1:]
        while (inner := getattr(command, "commands", None)) is not None:
            command = inner[words.pop(0)]
        command.make_context(line, words)  # raises UsageError
