"""Command templates of mappers that users bring: words with placeholders, and no shell.

`mapper -t {threads} -R {read_group} {reference} {first} {second}`: each word becomes one
word of the command, whatever blanks and quotes a path has.
"""

import re
import shlex
from collections.abc import Mapping
from string import Formatter

from wesemu.errors import InvalidRequest

READS = "reads"
PLACEHOLDERS = (READS, "first", "second", "read_group", "threads", "gpus", "reference")
"""`reads` stands alone and becomes two words, the two files."""

_SHELL = frozenset({"|", "||", "&", "&&", ";", "<", ">", ">>", "2>", "2>&1"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_template(name: str, template: str) -> None:
    """Raises InvalidRequest for a name or a template that cannot be used, saying why."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(f"{name!r} is no mapper's name; use letters, digits and . _ -")
    used = set[str]()
    for word in _words(name, template):
        found = _placeholders(name, word)
        if READS in found and word != f"{{{READS}}}":
            raise InvalidRequest(f"mapper {name}: {{reads}} must be a word of its own in {word!r}")
        used |= found
    for missing in ({"reference"} - used, {"read_group"} - used):
        if missing:
            raise InvalidRequest(f"mapper {name}: the template has no {{{missing.pop()}}}")
    if READS not in used and not {"first", "second"} <= used:
        raise InvalidRequest(
            f"mapper {name}: the template names no reads; write {{first}} {{second}}"
        )


def fill(name: str, template: str, values: Mapping[str, str]) -> list[str]:
    """The command; `values` has every placeholder but `reads`. Raises InvalidRequest."""
    command = list[str]()
    for word in _words(name, template):
        if word == f"{{{READS}}}":
            command += [values["first"], values["second"]]
        else:
            command.append(word.format_map(values))
    return command


def uses_gpu(name: str, template: str) -> bool:
    """Whether the mapper is told a number of GPUs, and so wants a lease on them."""
    return any("gpus" in _placeholders(name, word) for word in _words(name, template))


def _words(name: str, template: str) -> list[str]:
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise InvalidRequest(f"mapper {name}: the template cannot be read: {error}") from error
    if not words:
        raise InvalidRequest(f"mapper {name}: the template is empty")
    if shell := sorted(_SHELL.intersection(words)):
        raise InvalidRequest(
            f"mapper {name}: {shell[0]!r} needs a shell, and templates have none; put the "
            "commands into a script and name that"
        )
    return words


def _placeholders(name: str, word: str) -> set[str]:
    try:
        fields = [(field, form, turn) for _, field, form, turn in Formatter().parse(word)]
    except ValueError as error:
        raise InvalidRequest(
            f"mapper {name}: {word!r} cannot be read ({error}); write {{{{ for a brace"
        ) from error
    found = {field for field, _, _ in fields if field is not None}
    for field, form, turn in fields:
        if field is not None and (field not in PLACEHOLDERS or form or turn):
            raise InvalidRequest(
                f"mapper {name}: {{{field}}} is no placeholder; there are "
                f"{', '.join(f'{{{known}}}' for known in PLACEHOLDERS)}"
            )
    return found
